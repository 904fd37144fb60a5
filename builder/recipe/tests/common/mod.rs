//! A folder with recipe files for a test.

// Each test file uses its share of this.
#![allow(dead_code, unreachable_pub, clippy::panic, clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use imgbuild_recipe::{Diagnostics, Recipe, load, load_with};

/// A folder that is gone when the test is over.
pub struct Folder(tempfile::TempDir);

impl Folder {
    /// A folder with these files; a name that ends in `/` is a folder.
    pub fn new(files: &[(&str, &str)]) -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        for (name, text) in files {
            folder.write(name, text);
        }
        folder
    }

    pub fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        let path = self.path(name);
        if name.ends_with('/') {
            std::fs::create_dir_all(path).unwrap();
        } else {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        // As the loader sees it: without symbolic links.
        self.0.path().canonicalize().unwrap().join(name)
    }

    pub fn load(&self, files: &[&str], sets: &[&str]) -> Result<Recipe, Diagnostics> {
        let paths: Vec<PathBuf> = files.iter().map(|name| self.path(name)).collect();
        load(&paths, sets)
    }

    pub fn ok(&self, files: &[&str], sets: &[&str]) -> Recipe {
        self.load(files, sets).unwrap_or_else(|errors| panic!("{}", self.shown(&errors)))
    }

    /// What is wrong, with this folder's own name taken out of it.
    pub fn errors(&self, files: &[&str], sets: &[&str]) -> String {
        match self.load(files, sets) {
            Ok(recipe) => panic!("no error in\n{}", recipe.to_toml()),
            Err(errors) => self.shown(&errors),
        }
    }

    pub fn shown(&self, errors: &Diagnostics) -> String {
        errors.to_string().replace(&format!("{}/", self.path("").display()).replace("//", "/"), "")
    }
}

/// Loads one text, as if from standard input in `dir`-less surroundings.
pub fn load_text(text: &[u8]) -> Result<Recipe, Diagnostics> {
    load_with(&[Path::new("-")], &[] as &[&str], &mut &*text)
}
