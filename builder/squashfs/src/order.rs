//! Which files lie next to each other.
//!
//! Files of one directory resemble each other, and so, much more, do files of one name in several directories: the
//! message catalogues of a program, copyright notices, `__init__.py`. Small files that share a fragment block share what
//! the compressor has learnt, so both kinds of neighbours are kept together. On a Debian system's documentation, locales,
//! Python and Perl this makes the image an eighth smaller than the order of the paths alone; elsewhere it changes nothing.
//! Files of one type in a row (by what follows the last dot) made two Debian systems 0.2 % larger and 0.2 % smaller: not done.

use std::collections::HashMap;

use crate::plan::FileFacts;

/// The order in which files are packed: by group, and in each as they come, but those that share a name right behind the
/// first of them.
pub(crate) fn packing(files: &[FileFacts<'_>]) -> Vec<usize> {
    let mut first = HashMap::with_capacity(files.len());
    let mut place = Vec::with_capacity(files.len());
    for (number, file) in files.iter().enumerate() {
        place.push((file.group, *first.entry((file.group, file.name)).or_insert(number)));
    }
    let mut order: Vec<usize> = (0..files.len()).collect();
    order.sort_by_key(|file| place[*file]);
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_one_name_follow_the_first_of_them() {
        let file = |name: &'static str, group| FileFacts { name: name.as_bytes(), len: 1, group };
        let files = ["a", "b", "c", "b", "d", "a", "b"].map(|name| file(name, 0));
        assert_eq!(packing(&files), [0, 5, 1, 3, 6, 2, 4]);
        assert_eq!(packing(&[]), [0; 0]);
        assert_eq!(packing(&[file("b", 1), file("a", 1), file("b", 0), file("b", 1)]), [2, 0, 3, 1]);
    }
}
