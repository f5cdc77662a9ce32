//! The nodes of a cluster, grouped by what they have in common.
//!
//! Thousands of nodes are a few kinds of machine: what a kind's nodes share is kept once, and a pod is placed among the kinds.
//! Which of their labels nodes share is learnt from the nodes: a label with many values is a node's own. A wrong guess costs time
//! and memory and changes no decision.

use std::{
    borrow::Cow,
    collections::{BTreeSet, HashMap},
    mem,
    sync::Arc,
};

use crate::{kinds::Kinds, names::DOMAIN, select::NodeView};

/// A label with more values than this tells nodes apart rather than kinds.
const MAX_VALUES: usize = 32;
/// The same once there are many kinds: each is some kilobytes, and one node's until it is known what it does not share.
const FEW_VALUES: usize = 8;
/// Keys of labels to know the values of. A cluster with more starts to learn anew.
const MAX_KEYS: usize = 4096;
/// As many kinds are few: fewer are not looked through for those that no node is of any more.
const MIN_KINDS: usize = 64;

/// A node, as one of its kind.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SharedNode {
    /// Name.
    pub name: String,
    /// What it shares with its like: no name, and no labels of its own.
    pub kind: Arc<NodeView>,
    /// Its own labels, in order of their keys.
    own: Box<[(Arc<str>, Box<str>)]>,
}

impl SharedNode {
    /// A label's value.
    pub fn label(&self, key: &str) -> Option<&str> {
        self.kind.labels.get(key).map(String::as_str).or_else(|| {
            let at = self.own.binary_search_by(|(own, _)| (**own).cmp(key)).ok()?;
            Some(&self.own[at].1)
        })
    }
}

/// Takes nodes apart into what they share and what is their own.
#[derive(Debug, Default)]
pub struct Pool {
    kinds: Kinds<NodeView>,
    keys: HashMap<Arc<str>, BTreeSet<Box<str>>>,
    sweep_at: usize,
}

impl Pool {
    /// The node, with what it shares shared. Resources that no decision is about (memory, cores) are not kept.
    pub fn share(&mut self, mut node: NodeView) -> SharedNode {
        node.allocatable.retain(|name, _| name.contains('/'));
        let name = mem::take(&mut node.name);
        let mut own = Vec::new();
        for (key, value) in mem::take(&mut node.labels) {
            match self.own_key(&key, &value) {
                Some(key) => own.push((key, value.into_boxed_str())),
                None => drop(node.labels.insert(key, value)),
            }
        }
        SharedNode { name, kind: self.kind(node), own: own.into_boxed_slice() }
    }

    /// The key, where its values are the nodes' own.
    fn own_key(&mut self, key: &str, value: &str) -> Option<Arc<str>> {
        if is_ours(key) {
            return None;
        }
        if self.keys.len() > MAX_KEYS {
            self.keys.clear();
        }
        let Some(values) = self.keys.get_mut(key) else {
            self.keys.insert(key.into(), BTreeSet::from([value.into()]));
            return None;
        };
        let limit = if self.kinds.len() > MIN_KINDS { FEW_VALUES } else { MAX_VALUES };
        if values.len() <= limit && !values.contains(value) {
            values.insert(value.into());
        }
        let many = values.len() > limit;
        many.then(|| self.keys.get_key_value(key).map(|(key, _)| key.clone())).flatten()
    }

    /// How many kinds it knows.
    pub fn kinds(&self) -> usize {
        self.kinds.len()
    }

    /// Forgets the kinds that no node is of any more: what was learnt from a first list leaves hundreds, of kilobytes each.
    pub fn sweep(&mut self) {
        self.kinds.sweep();
        self.sweep_at = MIN_KINDS.max(2 * self.kinds.len());
    }

    fn kind(&mut self, kind: NodeView) -> Arc<NodeView> {
        if self.kinds.len() >= self.sweep_at {
            self.sweep();
        }
        self.kinds.share(kind)
    }
}

/// All nodes of a cluster, by kind.
#[derive(Debug, Default)]
pub struct NodeMap {
    /// In order of name.
    nodes: Vec<Arc<SharedNode>>,
    kinds: Vec<Kind>,
}

#[derive(Debug)]
struct Kind {
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
        let mut places: HashMap<*const NodeView, usize> = HashMap::new();
        // Two kinds can be alike that were made at different times.
        let mut alike: HashMap<&NodeView, usize> = HashMap::new();
        for (at, node) in (0_u32..).zip(nodes.iter()) {
            let place = *places
                .entry(Arc::as_ptr(&node.kind))
                .or_insert_with(|| *alike.entry(&node.kind).or_insert(kinds.len()));
            if place == kinds.len() {
                kinds.push(Kind { members: Vec::new(), own_keys: Vec::new() });
            }
            kinds[place].add(at, node);
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

    /// Nodes of the kinds that `kind_fits`, and of those the ones that `node_fits`. The second is asked once for a whole kind where
    /// no node has a label of its own that it would look at: `looks_at`; `by_name`: it looks at names.
    pub(crate) fn groups(
        &self,
        kind_fits: impl Fn(&NodeView) -> bool,
        by_name: bool,
        looks_at: impl Fn(&str) -> bool,
        node_fits: impl Fn(&SharedNode) -> bool,
    ) -> Vec<Group<'_>> {
        let mut found = Vec::new();
        for Kind { members, own_keys } in &self.kinds {
            let Some(first) = members.first().map(|&at| &self.nodes[at as usize]) else { continue };
            if !kind_fits(&first.kind) {
                continue;
            }
            let alike = !by_name && !own_keys.iter().any(|key| looks_at(key));
            let members = match alike {
                true if node_fits(first) => Cow::Borrowed(&members[..]),
                true => continue,
                false => members.iter().copied().filter(|&at| node_fits(&self.nodes[at as usize])).collect(),
            };
            if !members.is_empty() {
                found.push(Group { kind: &first.kind, nodes: &self.nodes, members });
            }
        }
        found
    }
}

/// Takes labels of many values out of what nodes share, where there are more kinds than machines come in.
fn share_anew(nodes: &mut [Arc<SharedNode>]) {
    let kinds: HashMap<*const NodeView, &Arc<NodeView>> =
        nodes.iter().map(|node| (Arc::as_ptr(&node.kind), &node.kind)).collect();
    if kinds.len() <= MIN_KINDS {
        return;
    }
    let mut values: HashMap<&str, BTreeSet<&str>> = HashMap::new();
    for (key, value) in kinds.values().flat_map(|kind| &kind.labels).filter(|(key, _)| !is_ours(key)) {
        let values = values.entry(key).or_default();
        if values.len() <= MAX_VALUES {
            values.insert(value);
        }
    }
    let found = values.into_iter().filter(|(_, values)| values.len() > MAX_VALUES);
    // What is one node's own is every node's.
    let known = nodes.iter().flat_map(|node| &node.own).map(|(key, _)| (key.to_string(), key.clone()));
    let many: HashMap<String, Arc<str>> = found.map(|(key, _)| (key.to_owned(), key.into())).chain(known).collect();
    if many.is_empty() {
        return;
    }
    let mut made = Kinds::default();
    for node in nodes {
        let taken: Vec<_> = node.kind.labels.iter().filter_map(|(key, value)| Some((many.get(key)?, value))).collect();
        if taken.is_empty() {
            continue;
        }
        let mut kind = NodeView::clone(&node.kind);
        kind.labels.retain(|key, _| !many.contains_key(key));
        let kind = made.share(kind);
        let taken = taken.into_iter().map(|(key, value)| (key.clone(), value.as_str().into()));
        let mut own: Vec<(Arc<str>, Box<str>)> = node.own.iter().cloned().chain(taken).collect();
        own.sort();
        *node = Arc::new(SharedNode { name: node.name.clone(), kind, own: own.into_boxed_slice() });
    }
}

/// Our own labels, which decisions go by.
fn is_ours(key: &str) -> bool {
    key.strip_prefix(DOMAIN).is_some_and(|rest| rest.starts_with('/'))
}

impl Kind {
    fn add(&mut self, at: u32, node: &SharedNode) {
        self.members.push(at);
        // Nodes of a kind mostly have the same keys, and the pool makes each key once.
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
