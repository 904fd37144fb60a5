//! Looking after the cache.

use std::collections::BTreeMap;
use std::fs::{File, Permissions};
use std::io::{BufReader, BufWriter, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use imgbuild_bundle::inspect::human;
use imgbuild_layers::cache::{Cache, Limit};
use imgbuild_progress::Progress;
use imgbuild_recipe::ByteSize;
use serde::Serialize;

use super::cache as open;
use crate::args::{CacheCommand, CacheExport, CachePrune, Global};
use crate::failure::{Code, Failure, OrFail, Outcome};
use crate::print_either;

/// Seconds.
const DAY: u64 = 86_400;

/// What the buckets of this version hold, for people.
const KINDS: [(&str, &str); 13] = [
    ("archives", "which tar an archive unpacks to"),
    ("blobs", "manifests and compressed layers, as registries serve them"),
    ("builds", "what went into the bundles that were built"),
    ("debian", "roots made by mmdebstrap"),
    ("debian-packages", "package lists of those roots"),
    ("diff-ids", "which tar a compressed layer holds"),
    ("files", "digests of files on this machine"),
    ("headers", "what is in layers, and where"),
    ("packs", "compressed blocks of squashfs images, by layer"),
    ("scans", "digests of the files in layers"),
    ("segments", "compressed parts of initrds"),
    ("tars", "layers and archives, unpacked to tars"),
    ("urls", "downloads"),
];

/// `imgbuild cache`.
pub(crate) fn run(command: &CacheCommand, global: &Global, progress: &dyn Progress) -> Outcome {
    let cache = open(global)?;
    match command {
        CacheCommand::Ls => ls(&cache, global),
        CacheCommand::Prune(args) => prune(&cache, args, global, progress),
        CacheCommand::Verify => verify(&cache, global, progress),
        CacheCommand::Export(args) => export(&cache, args, global),
        CacheCommand::Import { file } => import(&cache, file, global),
    }
}

/// What one kind of entries takes.
#[derive(Debug, Serialize)]
struct Kind {
    kind: String,
    entries: u64,
    bytes: u64,
    /// Days since one of them was used, as far as the file system tells.
    unused_days: u64,
}

fn ls(cache: &Cache, global: &Global) -> Outcome {
    let now = SystemTime::now();
    let mut kinds: BTreeMap<String, Kind> = BTreeMap::new();
    for entry in cache.entries().or_fail(Code::Failed)? {
        let name = kind_of(&entry.bucket).to_owned();
        let days = now.duration_since(entry.used).unwrap_or_default().as_secs() / DAY;
        let kind = kinds.entry(name.clone()).or_insert(Kind { kind: name, entries: 0, bytes: 0, unused_days: days });
        kind.entries += 1;
        kind.bytes = kind.bytes.saturating_add(entry.bytes);
        kind.unused_days = kind.unused_days.min(days);
    }
    let kinds: Vec<Kind> = kinds.into_values().collect();
    let total = kinds.iter().map(|kind| kind.bytes).sum::<u64>();
    let value = serde_json::json!({ "cache": cache.dir(), "bytes": total, "kinds": kinds });
    print_either(global, &value, || {
        let mut text = format!("{}: {}\n", cache.dir().display(), human(total));
        for kind in &kinds {
            let about =
                KINDS.iter().find(|(name, _)| *name == kind.kind).map_or("of another version", |(_, about)| about);
            text.push_str(&format!(
                "{:>10}  {:>7} entries  used {:>10}  {:<16} {about}\n",
                human(kind.bytes),
                kind.entries,
                match kind.unused_days {
                    0 => "today".to_owned(),
                    days => format!("{days} d ago"),
                },
                kind.kind,
            ));
        }
        text
    })
}

/// `packs-v1` is of the kind `packs`.
fn kind_of(bucket: &str) -> &str {
    bucket.rsplit_once("-v").map_or(bucket, |(kind, _)| kind)
}

fn prune(cache: &Cache, args: &CachePrune, global: &Global, progress: &dyn Progress) -> Outcome {
    let limit = Limit {
        bytes: if args.all { Some(0) } else { args.max_size.as_deref().map(size("--max-size")).transpose()? },
        older_than: args.older_than.map(|days| Duration::from_secs(u64::from(days) * DAY)),
    };
    let wait = || progress.note("a build is using the cache: waiting for its end".to_owned());
    let gone = cache.prune(limit, args.dry_run, wait).or_fail(Code::Failed)?;
    let bytes = gone.iter().map(|entry| entry.bytes).sum::<u64>();
    let value = serde_json::json!({ "entries": gone.len(), "bytes": bytes, "dry_run": args.dry_run });
    print_either(global, &value, || {
        let did = if args.dry_run { "would delete" } else { "deleted" };
        format!("{did} {} entries, {}", gone.len(), human(bytes))
    })
}

/// Reads a size of the command line.
pub(super) fn size(option: &'static str) -> impl Fn(&str) -> Outcome<u64> {
    move |text| {
        let parsed = text.parse::<ByteSize>();
        parsed
            .map(|size| size.0)
            .map_err(|e| Failure::message(Code::Usage, format!("{option} {text}: {}; {}", e.message, e.help)))
    }
}

fn verify(cache: &Cache, global: &Global, progress: &dyn Progress) -> Outcome {
    const TASK: &str = "verify packs";
    let _in_use = cache.in_use();
    let mut damaged = cache.verify(progress).or_fail(Code::Failed)?;
    progress.started(TASK, None);
    let mut read = 0;
    let packs = imgbuild_pack::verify(cache, |bytes| {
        read = bytes;
        progress.advanced(TASK, bytes);
    });
    damaged.extend(packs.or_fail(Code::Failed)?);
    progress.finished(TASK, human(read));
    let value = serde_json::json!({ "damaged": damaged });
    print_either(global, &value, || match damaged.len() {
        0 => "everything that can be checked is whole".to_owned(),
        _ => damaged.iter().map(|path| format!("deleted {}\n", path.display())).collect(),
    })?;
    match damaged.len() {
        0 => Ok(()),
        n => Err(Failure::message(
            Code::Verification,
            format!("{n} entries were damaged and are deleted; the next build gets or makes them anew"),
        )),
    }
}

fn export(cache: &Cache, args: &CacheExport, global: &Global) -> Outcome {
    let wanted: Vec<&str> = match args.only.as_slice() {
        [] => vec!["packs", "segments"],
        only => only.iter().map(String::as_str).collect(),
    };
    if let Some(unknown) = wanted.iter().find(|name| !KINDS.iter().any(|(kind, _)| kind == *name)) {
        let kinds: Vec<_> = KINDS.iter().map(|(kind, _)| *kind).collect();
        let message = format!("--only {unknown}: the kinds of entries are {}", kinds.join(", "));
        return Err(Failure::message(Code::Usage, message));
    }
    let _in_use = cache.in_use();
    let stdout = args.file == Path::new("-");
    let write =
        |out: &mut dyn Write| cache.export(out, |bucket| wanted.contains(&kind_of(bucket))).or_fail(Code::Failed);
    if stdout {
        write(&mut BufWriter::new(std::io::stdout().lock()))?;
        return Ok(());
    }
    // Under its name only when it is whole.
    let folder = args.file.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // The umask takes its bits off.
    let mut file = tempfile::Builder::new()
        .permissions(Permissions::from_mode(0o666))
        .tempfile_in(folder)
        .or_fail(Code::Failed)?;
    let count = write(&mut BufWriter::new(file.as_file_mut()))?;
    let bytes = file.as_file().metadata().or_fail(Code::Failed)?.len();
    file.persist(&args.file).map_err(|e| e.error).or_fail(Code::Failed)?;
    let value = serde_json::json!({ "file": args.file, "entries": count, "bytes": bytes });
    print_either(global, &value, || format!("{}: {count} entries, {}", args.file.display(), human(bytes)))
}

fn import(cache: &Cache, file: &Path, global: &Global) -> Outcome {
    let input: Box<dyn Read> = if file == Path::new("-") {
        Box::new(std::io::stdin().lock())
    } else {
        Box::new(File::open(file).map_err(|e| {
            Failure::new(Code::Input, anyhow::Error::new(e).context(format!("cannot read {}", file.display())))
        })?)
    };
    let _in_use = cache.in_use();
    let imported = cache.import(BufReader::new(input)).or_fail(Code::Input)?;
    let value = serde_json::json!({ "added": imported.added, "bytes": imported.bytes, "present": imported.present });
    print_either(global, &value, || {
        format!("{} entries added, {}; {} were there", imported.added, human(imported.bytes), imported.present)
    })
}
