//! What programs need beside themselves. Pruning breaks it silently.

use std::collections::{BTreeSet, HashMap};

use globset::Glob;
use imgbuild_tree::{Content, FileContent, Kind, NodeId, RootTree};
use rayon::prelude::*;

use super::{Check, Finding, Rule, Subject};
use crate::Error;
use crate::elf::{self, Dynamic};
use crate::scan::{Format, Scanned};

pub(super) const LIBRARY: Rule = Rule {
    name: "missing-library",
    demands: "Every shared library that a program is linked with lies where the dynamic linker looks for it; and what libraries and plugins are \
              linked with is not pruned.",
    check: Check::Tree(library),
};

pub(super) const INTERPRETER: Rule = Rule {
    name: "missing-interpreter",
    demands: "A program's dynamic linker is in the image, and what a script's first line names is not pruned.",
    check: Check::Tree(interpreter),
};

/// What `PATH` holds for services and for root.
const PATH: [&str; 6] = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];
/// Where dynamic linkers look without being told to.
const FOLDERS: [&str; 5] = ["/lib", "/usr/lib", "/lib64", "/usr/lib64", "/usr/local/lib"];
/// Debian's linker has its own architecture's folder built in.
const MULTIARCH: [&str; 2] = ["-linux-gnu", "-linux-musl"];
/// Files that include each other in a circle end here.
const DEEPEST_INCLUDE: u32 = 8;
const EXAMPLES: &str = "/usr/share/doc/";
/// As many bytes of a script as the kernel looks at.
const FIRST_LINE: usize = 256;
const FIX: &str = "install the package that has it, take it out of [prune], or prune what needs it as well";

/// The programs and libraries of a root, and what they are linked with.
#[derive(Debug, Default)]
pub struct Programs<'a>(Vec<(File<'a>, Dynamic)>);

impl<'a> Programs<'a> {
    /// Reads those that were found to be some.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn read(tree: &'a RootTree, scanned: &[Scanned]) -> Result<Self, Error> {
        let read = |file: File<'a>| match elf::read(file.content) {
            Ok(dynamic) => dynamic.map(|dynamic| Ok((file, dynamic))),
            Err(source) => Some(Err(Error::Content { path: file.path, source })),
        };
        files(tree, scanned, Format::Elf).into_par_iter().filter_map(read).collect::<Result<_, _>>().map(Self)
    }
}

/// A file that the kernel would run, or that is linked to one.
#[derive(Debug)]
struct File<'a> {
    path: String,
    mode: u16,
    content: &'a Content,
}

fn library(subject: &Subject<'_>) -> Result<Vec<Finding>, Error> {
    let files = &subject.programs.0;
    if files.iter().all(|(_, dynamic)| dynamic.needed.is_empty()) {
        return Ok(Vec::new());
    }
    let common = folders(subject)?;
    let pruned = Pruned::of(subject);
    // A library is loaded into programs that may have loaded what it needs from a folder of their own.
    let private: BTreeSet<String> = files.iter().flat_map(|(file, dynamic)| search(file, dynamic)).collect();
    let mut known: HashMap<&str, bool> = HashMap::new();
    let mut findings = Vec::new();
    for (file, dynamic) in files {
        let mut missing = Vec::new();
        for name in &dynamic.needed {
            let has = |folder: &String| subject.exists(&format!("{}/{name}", folder.trim_end_matches('/')));
            let found = if name.contains('/') {
                !name.starts_with('/') || subject.exists(name)
            } else {
                *known.entry(name).or_insert_with(|| common.iter().any(has))
                    || search(file, dynamic).iter().any(has)
                    || dynamic.interpreter.is_none() && (private.iter().any(has) || has(&folder(&file.path).to_owned()))
            };
            let was_there = || {
                let own = search(file, dynamic);
                let folders = common.iter().chain(&own).chain(&private).map(String::as_str);
                name.starts_with('/') && pruned.has(name)
                    || folders
                        .chain([folder(&file.path)])
                        .any(|folder| pruned.has(&format!("{}/{name}", folder.trim_end_matches('/'))))
            };
            // Distributions have plugins for what is not installed, and nobody loads them.
            if !found && (dynamic.interpreter.is_some() || was_there()) {
                missing.push(name.as_str());
            }
        }
        if !missing.is_empty() {
            let problem = format!(
                "{} needs {}, and no folder that the dynamic linker looks in has {}",
                file.path,
                missing.join(", "),
                if missing.len() == 1 { "it" } else { "them" }
            );
            findings.push(LIBRARY.finding(Some(file.path.clone()), problem, FIX));
        }
    }
    Ok(findings)
}

fn interpreter(subject: &Subject<'_>) -> Result<Vec<Finding>, Error> {
    let mut findings = Vec::new();
    let pruned = Pruned::of(subject);
    for (file, dynamic) in &subject.programs.0 {
        if let Some(linker) = dynamic.interpreter.as_ref().filter(|path| !subject.exists(path)) {
            let problem = format!("{} is started by {linker}, which the image does not have", file.path);
            findings.push(INTERPRETER.finding(Some(file.path.clone()), problem, FIX));
        }
    }
    for file in files(subject.tree, subject.scanned, Format::Script) {
        // Others are read, sourced or run by name of their interpreter, if at all. Of documentation there are examples.
        if file.mode & 0o111 == 0 || file.path.starts_with(EXAMPLES) {
            continue;
        }
        let len = usize::try_from(file.content.len()).unwrap_or(usize::MAX).min(FIRST_LINE);
        let mut head = vec![0; len];
        file.content
            .read_exact_at(&mut head, 0)
            .map_err(|source| Error::Content { path: file.path.clone(), source })?;
        let line = head.split(|byte| *byte == b'\n').next().unwrap_or_default();
        let line = String::from_utf8_lossy(line.get(2..).unwrap_or_default()).into_owned();
        let was_there = |missing: &String| match missing.starts_with('/') {
            true => pruned.has(missing),
            false => PATH.iter().any(|folder| pruned.has(&format!("{folder}/{missing}"))),
        };
        if let Some(missing) = missing_interpreter(subject, &line).filter(was_there) {
            let problem = format!("{} is a script for {missing}, which the image does not have", file.path);
            findings.push(INTERPRETER.finding(Some(file.path), problem, FIX));
        }
    }
    Ok(findings)
}

/// What of a script's first line, after `#!`, is not in the image.
fn missing_interpreter(subject: &Subject<'_>, line: &str) -> Option<String> {
    let mut words = line.split_whitespace();
    let interpreter = words.next().filter(|path| path.starts_with('/'))?;
    if !subject.exists(interpreter) {
        return Some(interpreter.to_owned());
    }
    if interpreter.rsplit('/').next() != Some("env") {
        return None;
    }
    let program = words.find(|word| !word.starts_with('-') && !word.contains('='))?;
    (!in_path(subject, program)).then(|| program.to_owned())
}

/// What was in the layers and is not in the image.
struct Pruned<'a> {
    tree: &'a RootTree,
    /// The folders of each name.
    folders: HashMap<&'a [u8], Vec<&'a [u8]>>,
}

impl<'a> Pruned<'a> {
    fn of(subject: &Subject<'a>) -> Self {
        let mut folders: HashMap<&[u8], Vec<&[u8]>> = HashMap::new();
        for path in subject.pruned.into_iter().flatten() {
            let (folder, name) = split(path);
            folders.entry(name).or_default().push(folder);
        }
        Self { tree: subject.tree, folders }
    }

    /// Whether an absolute path was there, under whatever name of its folder.
    fn has(&self, path: &str) -> bool {
        let (folder, name) = split(path.as_bytes());
        let folders = self.folders.get(name).map(Vec::as_slice).unwrap_or_default();
        folders.iter().any(|pruned| *pruned == folder || self.place(pruned) == self.place(folder))
    }

    /// The last folder of a path that is in the image, and the rest of the path.
    fn place<'p>(&self, path: &'p [u8]) -> (NodeId, &'p [u8]) {
        let (mut here, mut rest) = (path, &path[path.len()..]);
        loop {
            if let Ok(id) = self.tree.resolve(here) {
                return (id, rest);
            }
            let (above, _) = split(here);
            (here, rest) = (above, path.get(above.len()..).unwrap_or_default());
        }
    }
}

/// Folder and name; the folder of what lies in the root is empty.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    let end = path.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
    let (folder, name) = path.split_at(end);
    (folder, name.strip_prefix(b"/").unwrap_or(name))
}

/// Whether a program is found as a shell would find it.
pub(super) fn in_path(subject: &Subject<'_>, program: &str) -> bool {
    if program.contains('/') {
        return subject.exists(program);
    }
    PATH.iter().any(|folder| subject.exists(&format!("{folder}/{program}")))
}

/// The files of a format, each by one of its names, in the order of the tree.
fn files<'a>(tree: &'a RootTree, scanned: &[Scanned], format: Format) -> Vec<File<'a>> {
    let mut wanted = vec![false; tree.len()];
    for scanned in scanned.iter().filter(|scanned| scanned.format == format) {
        if let Some(wanted) = wanted.get_mut(scanned.id.index()) {
            *wanted = true;
        }
    }
    let once = tree.walk().filter(|item| wanted.get_mut(item.id.index()).is_some_and(std::mem::take));
    once.filter_map(|item| match &tree.node(item.id).kind {
        Kind::Regular(content) => {
            let path = String::from_utf8_lossy(&item.path).into_owned();
            Some(File { path, mode: tree.node(item.id).meta.mode, content })
        }
        _ => None,
    })
    .collect()
}

/// The folders that a file itself names.
fn search(file: &File<'_>, dynamic: &Dynamic) -> Vec<String> {
    let origin = folder(&file.path);
    let place = |path: &String| path.replace("${ORIGIN}", origin).replace("$ORIGIN", origin);
    // $LIB and $PLATFORM are the linker's: nothing that it would find there is in need of them alone.
    dynamic.search.iter().map(place).filter(|path| !path.contains('$')).collect()
}

fn folder(path: &str) -> &str {
    match path.rsplit_once('/') {
        Some(("", _)) | None => "/",
        Some((folder, _)) => folder,
    }
}

/// The folders where the dynamic linkers of glibc and musl look for everybody.
fn folders(subject: &Subject<'_>) -> Result<Vec<String>, Error> {
    let mut all: Vec<String> = FOLDERS.iter().map(|folder| (*folder).to_owned()).collect();
    for folder in ["/lib", "/usr/lib"] {
        let multiarch =
            names(subject, folder).into_iter().filter(|name| MULTIARCH.iter().any(|end| name.contains(end)));
        all.extend(multiarch.map(|name| format!("{folder}/{name}")));
    }
    configured(subject, "/etc/ld.so.conf", DEEPEST_INCLUDE, &mut all)?;
    for name in names(subject, "/etc").iter().filter(|name| name.starts_with("ld-musl-") && name.ends_with(".path")) {
        let text = subject.text(&format!("/etc/{name}"))?.unwrap_or_default();
        all.extend(text.split([':', '\n']).map(str::trim).filter(|path| path.starts_with('/')).map(str::to_owned));
    }
    Ok(all)
}

/// What ldconfig's configuration says, included files with it.
fn configured(subject: &Subject<'_>, path: &str, depth: u32, all: &mut Vec<String>) -> Result<(), Error> {
    let Some(text) = subject.text(path)? else { return Ok(()) };
    for line in text.lines().map(|line| line.split('#').next().unwrap_or_default().trim()) {
        let Some(included) = line.strip_prefix("include").filter(|rest| rest.starts_with([' ', '\t'])) else {
            let listed = line.split([' ', '\t', ':', ',']).filter(|path| path.starts_with('/'));
            // `/folder=TYPE` is an old way to write it.
            all.extend(listed.map(|path| path.split('=').next().unwrap_or(path).to_owned()));
            continue;
        };
        for pattern in included.split_whitespace() {
            let pattern = if pattern.starts_with('/') { pattern.to_owned() } else { format!("/etc/{pattern}") };
            let Ok(glob) = Glob::new(&pattern) else { continue };
            let (glob, inside) = (glob.compile_matcher(), folder(&pattern).to_owned());
            for path in names(subject, &inside).iter().map(|name| format!("{inside}/{name}")) {
                if depth > 0 && glob.is_match(&path) {
                    configured(subject, &path, depth - 1, all)?;
                }
            }
        }
    }
    Ok(())
}

/// The names in a folder; none where there is no such folder.
pub(super) fn names(subject: &Subject<'_>, folder: &str) -> Vec<String> {
    let Ok(id) = subject.tree.resolve(folder) else { return Vec::new() };
    let children = subject.tree.children(id).into_iter().flatten();
    children.map(|(name, _)| String::from_utf8_lossy(name).into_owned()).collect()
}

#[cfg(test)]
mod tests;
