//! The nodes of a cluster, grouped by what they have in common.
//!
//! Thousands of nodes are a few kinds of machine: what a kind's nodes share is kept once, and a pod is placed among the kinds. What
//! decisions go by (our labels, devices, taints) makes a kind; other labels only pods' selectors look at.
//! Which of those nodes share is learnt from the nodes: a label with many values is a node's own. A wrong guess costs time
//! and memory and changes no decision.

use std::{
    borrow::Cow,
    collections::{BTreeSet, HashMap, HashSet},
    mem,
    sync::Arc,
};

use crate::{kinds::Kinds, names::DOMAIN, select::NodeView};

/// A label with more values tells nodes apart.
const MAX_VALUES: usize = 32;
/// The same once there are many sets of labels: each is a node's until it is known what it does not share.
const FEW_VALUES: usize = 8;
/// Keys of labels to know the values of. A cluster with more starts to learn anew.
const MAX_KEYS: usize = 4096;
/// As many kinds, or sets of labels, are few: fewer are not looked through for those that no node is of any more.
const FEW: usize = 64;

/// Labels in order of their keys.
type Labels = [(Arc<str>, Arc<str>)];

/// A node, as one of its kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SharedNode {
    /// Name.
    pub name: String,
    /// What makes its kind: no name, and of the labels only our own.
    pub kind: Arc<NodeView>,
    /// Labels that it shares with others.
    shared: Arc<Labels>,
    /// Labels of its own, in order of their keys.
    own: Box<[(Arc<str>, Box<str>)]>,
}

impl SharedNode {
    /// A label's value.
    pub fn label(&self, key: &str) -> Option<&str> {
        if is_ours(key) {
            return self.kind.labels.get(key).map(String::as_str);
        }
        if let Ok(at) = self.shared.binary_search_by(|(shared, _)| (**shared).cmp(key)) {
            return Some(&self.shared[at].1);
        }
        let at = self.own.binary_search_by(|(own, _)| (**own).cmp(key)).ok()?;
        Some(&self.own[at].1)
    }
}

/// Takes nodes apart into what they share and what is their own.
#[derive(Debug, Default)]
pub struct Pool {
    kinds: Kinds<NodeView>,
    labels: Kinds<Labels>,
    /// Values of each label; none of one that has too many, which stays the nodes' own.
    values: HashMap<Arc<str>, Option<BTreeSet<Arc<str>>>>,
    sweep_at: usize,
}

impl Pool {
    /// The node, with what it shares shared. Resources that no decision is about (memory, cores) are not kept.
    pub fn share(&mut self, mut node: NodeView) -> SharedNode {
        if self.held() >= self.sweep_at {
            self.sweep();
        }
        node.allocatable.retain(|name, _| name.contains('/'));
        let name = mem::take(&mut node.name);
        let (mut shared, mut own) = (Vec::new(), Vec::new());
        for (key, value) in mem::take(&mut node.labels) {
            if is_ours(&key) {
                node.labels.insert(key, value);
                continue;
            }
            match self.known(&key, &value) {
                (key, Some(value)) => shared.push((key, value)),
                (key, None) => own.push((key, value.into_boxed_str())),
            }
        }
        SharedNode {
            name,
            kind: self.kinds.share(node),
            shared: self.labels.share(shared),
            own: own.into_boxed_slice(),
        }
    }

    /// The key and the value, each held once; no value, where there are so many that they are the nodes' own.
    fn known(&mut self, key: &str, value: &str) -> (Arc<str>, Option<Arc<str>>) {
        if self.values.len() > MAX_KEYS {
            self.values.clear();
        }
        let limit = if self.labels.len() > FEW { FEW_VALUES } else { MAX_VALUES };
        let key = self.values.get_key_value(key).map_or_else(|| key.into(), |(key, _)| key.clone());
        let values = self.values.entry(key.clone()).or_insert_with(|| Some(BTreeSet::new()));
        let Some(few) = values else { return (key, None) };
        let known = few.get(value).cloned();
        if known.is_none() && few.len() >= limit {
            *values = None;
            return (key, None);
        }
        let value = known.unwrap_or_else(|| {
            let value: Arc<str> = value.into();
            few.insert(value.clone());
            value
        });
        (key, Some(value))
    }

    /// How many kinds and sets of labels it holds.
    pub fn held(&self) -> usize {
        self.kinds.len() + self.labels.len()
    }

    /// Forgets what no node is of any more: what was learnt from a first list leaves hundreds.
    pub fn sweep(&mut self) {
        self.kinds.sweep();
        self.labels.sweep();
        self.sweep_at = FEW.max(2 * self.held());
    }
}

/// All nodes of a cluster, by kind.
#[derive(Debug, Default)]
pub struct NodeMap {
    /// In order of name.
    nodes: Vec<Arc<SharedNode>>,
    kinds: Vec<Kind>,
}

#[derive(Debug, Default)]
struct Kind {
    /// Places in the list of nodes; at least one.
    members: Vec<u32>,
    /// The same, by the labels that they share.
    alike: Vec<Alike>,
}

#[derive(Debug, Default)]
struct Alike {
    /// Places in the list of nodes; at least one.
    members: Vec<u32>,
    /// Keys of labels that one member at least has as its own.
    own_keys: Vec<Arc<str>>,
}

/// Nodes of one kind that are candidates.
#[derive(Debug, Clone)]
pub struct Group<'a> {
    /// What they share.
    pub kind: &'a NodeView,
    nodes: &'a [Arc<SharedNode>],
    members: Cow<'a, [u32]>,
}

impl<'a> Group<'a> {
    /// How many; at least one.
    pub fn count(&self) -> usize {
        self.members.len()
    }

    /// The nodes themselves.
    pub fn nodes(&self) -> impl Iterator<Item = &'a SharedNode> {
        let nodes = self.nodes;
        self.members.iter().filter_map(move |&at| nodes.get(at as usize)).map(Arc::as_ref)
    }
}

/// How many nodes there are in these groups.
pub fn count(groups: &[Group<'_>]) -> usize {
    groups.iter().map(Group::count).sum()
}

impl NodeMap {
    /// Of these nodes; of two with one name, the first. Nodes that were shared before it was known which labels tell nodes apart
    /// are shared anew, in place.
    pub fn new(nodes: &mut Vec<Arc<SharedNode>>) -> Self {
        nodes.sort_by(|one, other| one.name.cmp(&other.name));
        nodes.dedup_by(|one, other| one.name == other.name);
        share_anew(nodes);
        let mut kinds: Vec<Kind> = Vec::new();
        // Two kinds, or sets of labels, can be alike that were made at different times.
        let mut places: HashMap<&NodeView, usize> = HashMap::new();
        let mut sets: HashMap<(usize, &Labels), usize> = HashMap::new();
        let mut known: HashMap<(*const NodeView, *const ()), (usize, usize)> = HashMap::new();
        for (at, node) in (0_u32..).zip(nodes.iter()) {
            let same = (Arc::as_ptr(&node.kind), Arc::as_ptr(&node.shared).cast());
            let &mut (kind, set) = known.entry(same).or_insert_with(|| {
                let kind = *places.entry(&node.kind).or_insert(kinds.len());
                if kind == kinds.len() {
                    kinds.push(Kind::default());
                }
                let alike = &mut kinds[kind].alike;
                let set = *sets.entry((kind, &node.shared)).or_insert(alike.len());
                if set == alike.len() {
                    alike.push(Alike::default());
                }
                (kind, set)
            });
            kinds[kind].members.push(at);
            kinds[kind].alike[set].add(at, node);
        }
        Self { nodes: nodes.clone(), kinds }
    }

    /// How many nodes.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// How many kinds they make up.
    pub fn kinds(&self) -> usize {
        self.kinds.len()
    }

    /// The node of this name.
    pub fn get(&self, name: &str) -> Option<&Arc<SharedNode>> {
        self.place(name).map(|at| &self.nodes[at])
    }

    fn place(&self, name: &str) -> Option<usize> {
        self.nodes.binary_search_by(|node| node.name.as_str().cmp(name)).ok()
    }

    /// The one node of this name.
    pub(crate) fn only(&self, name: &str) -> Option<Group<'_>> {
        let at = self.place(name)?;
        let members = Cow::Owned(vec![u32::try_from(at).ok()?]);
        Some(Group { kind: &self.nodes[at].kind, nodes: &self.nodes, members })
    }

    /// Nodes of the kinds that `kind_fits`, and of those the ones that `node_fits`, which looks at these labels of a node, and where
    /// `by_name` at its name. It is asked once for all nodes that are alike in that.
    pub(crate) fn groups(
        &self,
        kind_fits: impl Fn(&NodeView) -> bool,
        by_name: bool,
        keys: &BTreeSet<&str>,
        node_fits: impl Fn(&SharedNode) -> bool,
    ) -> Vec<Group<'_>> {
        let node = |at: &u32| &*self.nodes[*at as usize];
        let whole = !by_name && keys.iter().all(|key| is_ours(key));
        let fitting = |Alike { members, own_keys }: &Alike| -> Vec<u32> {
            if by_name || own_keys.iter().any(|key| keys.contains(&**key)) {
                members.iter().copied().filter(|at| node_fits(node(at))).collect()
            } else if members.first().map(node).is_some_and(&node_fits) {
                members.clone()
            } else {
                Vec::new()
            }
        };
        let mut found = Vec::new();
        for Kind { members, alike } in &self.kinds {
            let Some(first) = members.first().map(node).filter(|first| kind_fits(&first.kind)) else { continue };
            let members = match whole {
                true if node_fits(first) => Cow::Borrowed(&members[..]),
                true => continue,
                false => alike.iter().flat_map(fitting).collect(),
            };
            if !members.is_empty() {
                found.push(Group { kind: &first.kind, nodes: &self.nodes, members });
            }
        }
        found
    }
}

/// Takes labels of many values out of what nodes share, where they share less than machines of a kind do.
fn share_anew(nodes: &mut [Arc<SharedNode>]) {
    let sets: HashMap<*const (), &Arc<Labels>> =
        nodes.iter().map(|node| (Arc::as_ptr(&node.shared).cast(), &node.shared)).collect();
    if sets.len() <= FEW {
        return;
    }
    let mut values: HashMap<&Arc<str>, BTreeSet<&str>> = HashMap::new();
    for (key, value) in sets.values().flat_map(|set| set.iter()) {
        let values = values.entry(key).or_default();
        if values.len() <= MAX_VALUES {
            values.insert(value);
        }
    }
    let found = values.into_iter().filter(|(_, values)| values.len() > MAX_VALUES).map(|(key, _)| key.clone());
    // What is one node's own is every node's.
    let many: HashSet<Arc<str>> =
        found.chain(nodes.iter().flat_map(|node| &node.own).map(|(key, _)| key.clone())).collect();
    // What others share already is not made again.
    let mut made = Kinds::default();
    for set in sets.into_values().filter(|set| !set.iter().any(|(key, _)| many.contains(key))) {
        made.share(set.clone());
    }
    for node in nodes {
        let (taken, shared): (Vec<_>, Vec<_>) = node.shared.iter().cloned().partition(|(key, _)| many.contains(key));
        if taken.is_empty() {
            continue;
        }
        let taken = taken.into_iter().map(|(key, value)| (key, (*value).into()));
        let mut own: Vec<(Arc<str>, Box<str>)> = node.own.iter().cloned().chain(taken).collect();
        own.sort();
        *node = Arc::new(SharedNode {
            name: node.name.clone(),
            kind: node.kind.clone(),
            shared: made.share(shared),
            own: own.into_boxed_slice(),
        });
    }
}

/// Our own labels, which decisions go by.
fn is_ours(key: &str) -> bool {
    key.strip_prefix(DOMAIN).is_some_and(|rest| rest.starts_with('/'))
}

impl Alike {
    fn add(&mut self, at: u32, node: &SharedNode) {
        self.members.push(at);
        // They mostly have the same keys, and the pool makes each key once.
        let same = node.own.len() == self.own_keys.len()
            && node.own.iter().zip(&self.own_keys).all(|((key, _), known)| Arc::ptr_eq(key, known));
        if !same {
            for (key, _) in &node.own {
                if !self.own_keys.contains(key) {
                    self.own_keys.push(key.clone());
                }
            }
        }
    }
}

impl FromIterator<NodeView> for NodeMap {
    fn from_iter<I: IntoIterator<Item = NodeView>>(nodes: I) -> Self {
        let mut pool = Pool::default();
        Self::new(&mut nodes.into_iter().map(|node| Arc::new(pool.share(node))).collect())
    }
}
