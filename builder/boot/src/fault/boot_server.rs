//! What the boot server does wrong.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use imgbuild_serve::{Cut, Tree};

use super::Fault;
use crate::{Error, error::failed};

/// A mirror that is not there: no machine has this address in QEMU's user network.
pub(crate) const DEAD: &str = "http://10.0.2.77/root.squashfs";
/// In squashfs's superblock, the lowest byte of the time at which it was made: nobody needs it to mount.
const BYTE: u64 = 8;

/// A root as a boot server has it.
pub(crate) struct Served<'a> {
    /// Its path on the server.
    pub(crate) name: &'a str,
    /// The file.
    pub(crate) file: &'a Path,
    /// Where to put another one.
    pub(crate) folder: &'a Path,
}

impl Fault {
    /// The tree as the boot server has it, and the connection that it cuts.
    pub(crate) fn spoil(self, tree: Tree, root: &Served<'_>) -> Result<(Tree, Option<Cut>), Error> {
        let Served { name, file, folder } = root;
        Ok(match self {
            Self::ConnectionCut => (tree, Some(Cut::new(name, half(file)?))),
            Self::TruncatedRoot => {
                let (copy, out) = copied(file, folder)?;
                out.set_len(half(file)?).map_err(failed("cut", &copy))?;
                (tree.with(name, copy), None)
            }
            Self::AlteredRoot => {
                let (copy, out) = copied(file, folder)?;
                let mut byte = [0];
                let altered = out.read_exact_at(&mut byte, BYTE).and_then(|()| out.write_all_at(&[byte[0] ^ 1], BYTE));
                altered.map_err(failed("alter", &copy))?;
                (tree.with(name, copy), None)
            }
            Self::MissingRoot => (tree.with(name, folder.join("no-such-root")), None),
            _ => (tree, None),
        })
    }

    /// What a boot script says before the first real source of the root.
    pub(crate) fn first_source(self) -> Option<&'static str> {
        (self == Self::DeadMirror).then_some(DEAD)
    }
}

fn half(file: &Path) -> Result<u64, Error> {
    Ok(fs::metadata(file).map_err(failed("look at", file))?.len() / 2)
}

/// A copy that can be written to, whatever the original's mode.
fn copied(file: &Path, folder: &Path) -> Result<(PathBuf, File), Error> {
    let copy = folder.join("spoilt-root");
    let mut from = File::open(file).map_err(failed("read", file))?;
    let made = File::options().read(true).write(true).create_new(true).open(&copy);
    let mut to = made.map_err(failed("write", &copy))?;
    io::copy(&mut from, &mut to).map_err(failed("write", &copy))?;
    Ok((copy, to))
}

/// A boot script that names `source` before the root that it named.
pub(crate) fn with_first_source(script: &Path, source: &str) -> Result<String, Error> {
    const PARAMETER: &str = " netboot.root=";
    let text = fs::read_to_string(script).map_err(failed("read", script))?;
    match text.matches(PARAMETER).count() {
        1 => Ok(text.replacen(PARAMETER, &format!("{PARAMETER}{source},"), 1)),
        count => {
            let why = format!("it has {count} times `{}`, expected once", PARAMETER.trim());
            Err(failed("put another source into", script)(io::Error::other(why)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn served(fault: Fault) -> (Option<Vec<u8>>, bool) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("root.squashfs");
        fs::write(&file, [7; 100]).unwrap();
        let name = "images/w/1/root.squashfs";
        let root = Served { name, file: &file, folder: folder.path() };
        let (tree, cut) = fault.spoil(Tree::empty().with(name, &file), &root).unwrap();
        assert_eq!(fs::read(&file).unwrap(), [7; 100], "the bundle stays as it is");
        (fs::read(tree.find("/images/w/1/root.squashfs").unwrap()).ok(), cut.is_some())
    }

    #[test]
    fn the_root_is_spoilt_on_the_server_alone() {
        assert_eq!(served(Fault::TruncatedRoot), (Some(vec![7; 50]), false));
        let (altered, _) = served(Fault::AlteredRoot);
        let differ: Vec<usize> =
            altered.unwrap().iter().enumerate().filter(|(_, byte)| **byte != 7).map(|(at, _)| at).collect();
        assert_eq!(differ, [8]);
        assert_eq!(served(Fault::MissingRoot), (None, false));
        assert_eq!(served(Fault::ConnectionCut), (Some(vec![7; 100]), true));
        assert_eq!(served(Fault::ServerGone), (Some(vec![7; 100]), false));
    }

    #[test]
    fn a_script_gets_another_source_before_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let script = folder.path().join("boot.ipxe");
        fs::write(&script, "kernel vmlinuz a netboot.root=${netboot-url}root b\n").unwrap();
        let text = with_first_source(&script, "http://x/root").unwrap();
        assert_eq!(text, "kernel vmlinuz a netboot.root=http://x/root,${netboot-url}root b\n");
        fs::write(&script, "kernel vmlinuz\n").unwrap();
        assert!(with_first_source(&script, "http://x/root").is_err());
    }
}
