//! A kind of object as the cluster has it now, trimmed to what decisions need, in memory.
//!
//! Readers get a snapshot and never wait for the writer's work, only for the swap of a pointer.

use std::{collections::BTreeMap, fmt::Debug, sync::Arc, time::Duration};

use kube::runtime::watcher::Event;
use tokio::{sync::watch, time::timeout};

/// As many objects of a list are many.
const MANY: usize = 128;

/// What a [`Mirror`] holds.
pub trait Named: Sized {
    /// What is worked out once for a state of all objects, and not for each question; `()` for nothing.
    type Index: Debug + Send + Sync;

    /// The object's name.
    fn name(&self) -> &str;

    /// Works it out. Objects may be replaced by others that say the same in less room.
    fn index(objects: &mut Vec<Arc<Self>>) -> Self::Index;
}

/// All objects of a kind at one moment, by name.
#[derive(Debug)]
pub struct Snapshot<T: Named> {
    objects: Vec<Arc<T>>,
    index: T::Index,
}

impl<T: Named> Snapshot<T> {
    /// All of them, in order of name.
    pub fn all(&self) -> &[Arc<T>] {
        &self.objects
    }

    /// What was worked out for them.
    pub fn index(&self) -> &T::Index {
        &self.index
    }

    /// Those whose names start so, which are next to each other.
    pub fn starting_with<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = &'a Arc<T>> {
        let first = self.objects.partition_point(|object| object.name() < prefix);
        self.objects[first..].iter().take_while(move |object| object.name().starts_with(prefix))
    }

    /// The one of this name.
    pub fn get(&self, name: &str) -> Option<&Arc<T>> {
        self.objects.binary_search_by(|object| object.name().cmp(name)).ok().map(|at| &self.objects[at])
    }
}

/// The readers' side. Clones read the same.
#[derive(Debug)]
pub struct Mirror<T: Named>(watch::Receiver<Option<Arc<Snapshot<T>>>>);

impl<T: Named> Clone for Mirror<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T: Named> Mirror<T> {
    /// A mirror of nothing yet, and its writer.
    pub fn new() -> (Writer<T>, Self) {
        let (sender, receiver) = watch::channel(None);
        (Writer { sender, objects: BTreeMap::new(), listing: None }, Self(receiver))
    }

    /// What is there now; `None` until the first list is complete.
    pub fn snapshot(&self) -> Option<Arc<Snapshot<T>>> {
        self.0.borrow().clone()
    }

    /// Waits for another state than the one seen last. Never comes back once nothing can change any more.
    pub async fn changed(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// The object of this name, which may be so new that the watch is a moment behind: waits that long for it.
    pub async fn find(&self, name: &str, patience: Duration) -> Option<Arc<T>> {
        let mut receiver = self.0.clone();
        let found =
            |snapshot: &Option<Arc<Snapshot<T>>>| snapshot.as_ref().and_then(|snapshot| snapshot.get(name).cloned());
        // The writer may end while we wait: then nothing can come any more.
        let arrival = timeout(patience, receiver.wait_for(|snapshot| found(snapshot).is_some())).await.ok()?.ok()?;
        found(&arrival)
    }
}

/// The writer's side: takes a watch's events.
#[derive(Debug)]
pub struct Writer<T: Named> {
    sender: watch::Sender<Option<Arc<Snapshot<T>>>>,
    objects: BTreeMap<String, Arc<T>>,
    /// A list that is not complete: readers see the old state until it is.
    listing: Option<BTreeMap<String, Arc<T>>>,
}

impl<T: Named + PartialEq> Writer<T> {
    /// Takes events, and shows readers what came of them all. Objects that look as before (a node after its heartbeat) change
    /// nothing for readers.
    pub fn apply(&mut self, events: impl IntoIterator<Item = Event<T>>) {
        // One snapshot for a burst: each is a copy of the whole list.
        let news = events.into_iter().fold(false, |news, event| self.take(event) | news);
        if news {
            self.publish();
        }
    }

    /// Takes one event; says whether it is news for readers.
    fn take(&mut self, event: Event<T>) -> bool {
        match event {
            Event::Init => {
                self.listing = Some(BTreeMap::new());
                false
            }
            Event::InitApply(object) => {
                let listing = self.listing.get_or_insert_default();
                listing.insert(object.name().to_owned(), Arc::new(object));
                // What the first ones could not share yet would stay in memory until the end, below all that comes after it.
                if listing.len() >= MANY && listing.len().is_power_of_two() {
                    indexed(listing);
                }
                false
            }
            Event::InitDone => {
                let listed = self.listing.take().unwrap_or_default();
                let news = self.sender.borrow().is_none() || listed != self.objects;
                self.objects = listed;
                news
            }
            Event::Apply(object) => {
                let news = self.objects.get(object.name()).is_none_or(|before| **before != object);
                if news {
                    self.objects.insert(object.name().to_owned(), Arc::new(object));
                }
                news
            }
            Event::Delete(object) => self.objects.remove(object.name()).is_some(),
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.objects.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.objects.is_empty()
    }

    fn publish(&mut self) {
        let snapshot = indexed(&mut self.objects);
        self.sender.send_replace(Some(Arc::new(snapshot)));
    }
}

/// What readers get of these; the objects are replaced where others say the same in less room.
fn indexed<T: Named>(by_name: &mut BTreeMap<String, Arc<T>>) -> Snapshot<T> {
    let mut objects: Vec<Arc<T>> = by_name.values().cloned().collect();
    let index = T::index(&mut objects);
    for (kept, object) in by_name.values_mut().zip(&objects) {
        kept.clone_from(object);
    }
    Snapshot { objects, index }
}

#[cfg(test)]
mod tests {
    use super::{Arc, Duration, Event, MANY, Mirror, Named};

    #[derive(Debug, PartialEq)]
    struct Thing(String, u32);

    /// The value of a thing that can be said in less room.
    const LARGE: u32 = u32::MAX;

    impl Named for Thing {
        type Index = usize;

        fn index(objects: &mut Vec<Arc<Self>>) -> usize {
            for object in objects.iter_mut().filter(|object| object.1 == LARGE) {
                *object = thing(&object.0, 0).into();
            }
            objects.len()
        }

        fn name(&self) -> &str {
            &self.0
        }
    }

    fn thing(name: &str, value: u32) -> Thing {
        Thing(name.into(), value)
    }

    fn seen(mirror: &Mirror<Thing>) -> Vec<(String, u32)> {
        mirror.snapshot().unwrap().all().iter().map(|thing| (thing.0.clone(), thing.1)).collect()
    }

    #[test]
    fn nothing_is_seen_before_the_first_list_is_complete() {
        let (mut writer, mirror) = Mirror::new();
        writer.apply([Event::Init, Event::InitApply(thing("b", 2)), Event::InitApply(thing("a", 1))]);
        assert!(mirror.snapshot().is_none());
        writer.apply([Event::InitDone]);
        assert_eq!(seen(&mirror), [("a".into(), 1), ("b".into(), 2)]);
        assert_eq!(mirror.snapshot().unwrap().get("b").unwrap().1, 2);
        assert_eq!(*mirror.snapshot().unwrap().index(), 2);
        assert!(mirror.snapshot().unwrap().get("c").is_none());
    }

    #[test]
    fn an_empty_cluster_is_known_too() {
        let (mut writer, mirror) = Mirror::<Thing>::new();
        writer.apply([Event::Init, Event::InitDone]);
        assert!(mirror.snapshot().unwrap().all().is_empty());
    }

    #[test]
    fn a_long_list_says_the_same_in_less_room_before_it_ends() {
        let (mut writer, _mirror) = Mirror::new();
        let listed = |count: usize| (0..count).map(|number| Event::InitApply(thing(&format!("{number:03}"), LARGE)));
        writer.apply(std::iter::once(Event::Init).chain(listed(MANY - 1)));
        assert!(writer.listing.iter().flat_map(|listing| listing.values()).all(|thing| thing.1 == LARGE));
        writer.apply(listed(MANY));
        let listing = writer.listing.unwrap();
        assert!(listing.len() == MANY && listing.values().all(|thing| thing.1 == 0));
    }

    #[test]
    fn a_new_list_replaces_the_old_at_once_and_a_snapshot_stays_what_it_was() {
        let (mut writer, mirror) = Mirror::new();
        writer.apply([Event::Init, Event::InitApply(thing("a", 1)), Event::InitDone]);
        let before = mirror.snapshot().unwrap();
        writer.apply([Event::Apply(thing("b", 2)), Event::Init, Event::InitApply(thing("c", 3))]);
        assert_eq!(seen(&mirror), [("a".into(), 1), ("b".into(), 2)]);
        writer.apply([Event::InitDone]);
        assert_eq!(seen(&mirror), [("c".into(), 3)]);
        assert_eq!(before.all().len(), 1);
        writer.apply([Event::Delete(thing("c", 0))]);
        assert!(seen(&mirror).is_empty() && writer.is_empty());
    }

    #[test]
    fn no_news_is_no_new_snapshot() {
        let (mut writer, mirror) = Mirror::new();
        writer.apply([Event::Init, Event::InitApply(thing("a", 1)), Event::InitDone]);
        let before = mirror.snapshot().unwrap();
        writer.apply([
            Event::Apply(thing("a", 1)),
            Event::Delete(thing("x", 1)),
            Event::Init,
            Event::InitApply(thing("a", 1)),
            Event::InitDone,
        ]);
        assert!(Arc::ptr_eq(&before, &mirror.snapshot().unwrap()));
    }

    #[tokio::test]
    async fn waits_for_what_is_on_its_way() {
        let (mut writer, mirror) = Mirror::new();
        writer.apply([Event::Init, Event::InitDone]);
        let waiting = tokio::spawn({
            let mirror = mirror.clone();
            async move { mirror.find("late", Duration::from_secs(5)).await }
        });
        tokio::task::yield_now().await;
        writer.apply([Event::Apply(thing("late", 1))]);
        assert_eq!(waiting.await.unwrap().unwrap().1, 1);
        assert!(mirror.find("never", Duration::from_millis(5)).await.is_none());
        drop(writer);
        assert!(mirror.find("never", Duration::from_mins(1)).await.is_none());
    }
}
