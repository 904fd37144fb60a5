//! One more hook than the recipe has, in an initrd segment that comes after the shipped ones: where two have a file of the
//! same name, the kernel keeps the later one, and so the initrd's configuration gets the hook as its last one.

use std::fs::File;

use imgbuild_bundle::{Bundle, INITRD};
use imgbuild_initramfs::{
    Layout, read,
    segment::{self, Compression},
};
use imgbuild_tree::{Content, FileContent, Kind, Tree};
use netboot_init::{
    config::{self, Config, Hook, OnFailure, Stage},
    hooks::Outcome,
};

use super::Fault;
use crate::{Error, error::failed};

/// The hooks' names, no longer than the kernel keeps of a process's (`TASK_COMM_LEN`).
pub(crate) const FAILS: &str = "fault-fails";
pub(crate) const HANGS: &str = "fault-hangs";
/// With what the one ends.
const STATUS: i32 = 3;
/// After how many seconds the other one is killed.
const TIMEOUT: u64 = 5;
/// A configuration longer than this is none.
const LONGEST: u64 = 1 << 20;

const FAILING: &str = "#!/bin/sh\necho 'this hook fails, as it is to'\nexit 3\n";
/// The child keeps the hook's name, by which it is looked for in the system.
const HANGING: &str = "#!/bin/sh
(trap '' TERM; while :; do sleep 1; done) &
echo 'this hook hangs, as it is to'
trap '' TERM
while :; do sleep 1; done
";

impl Fault {
    /// The hook that a scenario adds, and its script.
    fn hook(self) -> Option<(Hook, &'static str)> {
        let hook = |name: &str, timeout, on_failure| Hook {
            name: name.to_owned(),
            stage: Stage::PreInit,
            timeout,
            on_failure,
        };
        match self {
            Self::HookFails => Some((hook(FAILS, 30, OnFailure::Halt), FAILING)),
            Self::HookHangs => Some((hook(HANGS, TIMEOUT, OnFailure::Continue), HANGING)),
            _ => None,
        }
    }

    /// What netboot-init says of that hook.
    pub(crate) fn hook_outcome(self) -> Option<String> {
        match self {
            Self::HookFails => Some(format!("hook {FAILS} {}", Outcome::Status(STATUS))),
            Self::HookHangs => Some(format!("hook {HANGS} {}", Outcome::TimedOut(TIMEOUT))),
            _ => None,
        }
    }

    /// The segment that adds the hook to this bundle's initrd; none for a scenario without one.
    pub(crate) fn segment(self, bundle: &Bundle) -> Result<Option<Vec<u8>>, Error> {
        let Some((hook, script)) = self.hook() else { return Ok(None) };
        let initrd = bundle.file(INITRD);
        let file = File::open(&initrd).map_err(failed("read", &initrd))?;
        let tree = read::read(&initrd, file).map_err(wrong)?;
        with_hook(&tree, hook, script, bundle.manifest().build_time).map(Some)
    }
}

fn wrong(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::Segment(error.into())
}

fn with_hook(initrd: &Tree<Content>, hook: Hook, script: &str, mtime: i64) -> Result<Vec<u8>, Error> {
    let mut config: Config = serde_json::from_slice(&configuration(initrd)?).map_err(wrong)?;
    let path = format!("{}/pre-init/{}", config::HOOKS, hook.name);
    config.hooks.push(hook);
    let config = serde_json::to_vec(&config).map_err(wrong)?;
    let mut layout = Layout::new(mtime);
    layout.file(config::PATH, 0o644, config.into()).map_err(wrong)?;
    layout.file(&path, 0o755, Content::from(script.as_bytes())).map_err(wrong)?;
    segment::to_bytes(&layout.into_tree(), Compression::Zstd(segment::MIN_LEVEL)).map_err(wrong)
}

fn configuration(initrd: &Tree<Content>) -> Result<Vec<u8>, Error> {
    let missing = || wrong(format!("the initrd has no {}", config::PATH));
    let id = initrd.resolve_no_follow(config::PATH).map_err(|_| missing())?;
    let Kind::Regular(content) = &initrd.node(id).kind else { return Err(missing()) };
    let length = usize::try_from(content.len()).ok().filter(|_| content.len() <= LONGEST).ok_or_else(missing)?;
    let mut bytes = vec![0; length];
    content.read_exact_at(&mut bytes, 0).map_err(failed("read", config::PATH))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = r#"{"schema": 1, "name": "w", "version": "1", "build_time": 1,
        "root": {"size": 1, "sha256": "00", "embedded": false}, "overlay_size": {"percent": 25}, "tmpfs": [],
        "hooks": [{"name": "z.sh", "stage": "pre-init", "timeout": 30, "on_failure": "reboot"}],
        "modules": ["virtio_pci"], "ram_budget": 7}"#;

    #[test]
    fn the_initrds_configuration_gets_one_more_hook() {
        let mut layout = Layout::new(1);
        layout.file(config::PATH, 0o644, Content::from(CONFIG.as_bytes())).unwrap();
        layout.file("/netboot/hooks/pre-init/z.sh", 0o755, Content::from(b"#!/bin/sh\n".as_slice())).unwrap();
        let (hook, script) = Fault::HookHangs.hook().unwrap();
        let added = with_hook(&layout.into_tree(), hook.clone(), script, 1).unwrap();
        assert_eq!(added.len() % 512, 0);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("segment");
        std::fs::write(&path, added).unwrap();
        let tree = read::read(&path, File::open(&path).unwrap()).unwrap();
        let config: Config = serde_json::from_slice(&configuration(&tree).unwrap()).unwrap();
        assert_eq!(config.hooks.iter().map(|hook| hook.name.as_str()).collect::<Vec<_>>(), ["z.sh", HANGS]);
        assert_eq!((config.hooks[1].clone(), config.ram_budget, config.modules.len()), (hook, 7, 1));
        assert!(tree.resolve_no_follow("/netboot/hooks/pre-init/fault-hangs").is_ok());
    }

    #[test]
    fn a_hooks_name_fits_into_a_processs() {
        assert!(HANGS.len() <= 15);
        assert_eq!(Fault::HookFails.hook_outcome().unwrap(), "hook fault-fails ended with status 3");
        assert!(FAILING.contains(&format!("exit {STATUS}\n")));
    }
}
