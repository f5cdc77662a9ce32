//! Values that many things have alike, held once.

use std::{borrow::Borrow, collections::HashSet, hash::Hash, sync::Arc};

/// The values, each of them once: two that are alike are in the same place.
#[derive(Debug)]
pub struct Kinds<T: ?Sized>(HashSet<Arc<T>>);

impl<T: ?Sized> Default for Kinds<T> {
    fn default() -> Self {
        Self(HashSet::new())
    }
}

impl<T: Eq + Hash + ?Sized> Kinds<T> {
    /// The value in its place, which is this one's where it is the first of its kind.
    pub fn share(&mut self, value: impl Borrow<T> + Into<Arc<T>>) -> Arc<T> {
        if let Some(known) = self.0.get(value.borrow()) {
            return known.clone();
        }
        let value = value.into();
        self.0.insert(value.clone());
        value
    }

    /// Forgets those that nobody has any more.
    pub fn sweep(&mut self) {
        self.0.retain(|kind| Arc::strong_count(kind) > 1);
        self.0.shrink_to_fit();
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
