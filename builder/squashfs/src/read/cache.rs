//! A cache of fixed size.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

/// Keeps the last entries that were put in. Which of them are read does not matter: readers go through an image from
/// front to back, more or less.
pub(super) struct Cache<K, V> {
    entries: HashMap<K, V>,
    /// Oldest first.
    order: VecDeque<K>,
    capacity: usize,
}

impl<K: Copy + Eq + Hash, V: Clone> Cache<K, V> {
    pub(super) fn new(capacity: usize) -> Self {
        Self { entries: HashMap::new(), order: VecDeque::new(), capacity: capacity.max(1) }
    }

    pub(super) fn get(&self, key: &K) -> Option<V> {
        self.entries.get(key).cloned()
    }

    pub(super) fn insert(&mut self, key: K, value: V) {
        if self.entries.insert(key, value).is_some() {
            return;
        }
        self.order.push_back(key);
        if self.order.len() > self.capacity
            && let Some(oldest) = self.order.pop_front()
        {
            self.entries.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_entry_makes_room() {
        let mut cache = Cache::new(2);
        for (key, value) in [(1, 'a'), (2, 'b'), (1, 'c'), (3, 'd')] {
            cache.insert(key, value);
        }
        assert_eq!([cache.get(&1), cache.get(&2), cache.get(&3)], [None, Some('b'), Some('d')]);
        assert_eq!((cache.entries.len(), cache.order.len()), (2, 2));
    }
}
