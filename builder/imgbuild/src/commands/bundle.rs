//! Commands that look at a bundle.

use std::path::Path;
use std::process::ExitCode;

use imgbuild_bundle::diff::{self, DiffError, Difference, Shown, Side};
use imgbuild_bundle::inspect::{self, FileError};
use imgbuild_bundle::{Bundle, treemap};

use crate::args::{self, Global};
use crate::failure::{Code, Failure, OrFail, Outcome, diff_code};
use crate::{print, print_either};

/// Opens a bundle; what is none is an input that cannot be had.
fn open(path: &Path) -> Outcome<Bundle> {
    Bundle::open(path).or_fail(Code::Input)
}

/// `imgbuild inspect`.
pub(crate) fn inspect(args: &args::Inspect, global: &Global) -> Outcome {
    if let Some(file) = &args.html {
        let drawn = draw(file, &side(&args.bundle)?, None)?;
        // The page is the result; with one on stdout there is nothing else to say.
        return if drawn {
            print_either(global, &serde_json::json!({ "html": file }), || file.display().to_string())
        } else {
            Ok(())
        };
    }
    let bundle = open(&args.bundle)?;
    match &args.file {
        None => {
            let found = inspect::inspect(&bundle).or_fail(Code::Input)?;
            print_either(global, &found, || inspect::text(&found))
        }
        Some(path) => {
            let found = inspect::file(&bundle, path).map_err(|e| {
                let code = if matches!(e, FileError::NotFound { .. }) { Code::Failed } else { Code::Input };
                Failure::new(code, e)
            })?;
            print_either(global, &found, || inspect::file_text(&found))
        }
    }
}

/// `imgbuild diff`.
pub(crate) fn diff(args: &args::Diff, global: &Global) -> Outcome<ExitCode> {
    let (before, after) = (side(&args.before)?, side(&args.after)?);
    let found = diff::compare(&before, &after).map_err(unread)?;
    let on_stdout = match &args.html {
        Some(file) => !draw(file, &after, Some(&found))?,
        None => false,
    };
    if !on_stdout {
        let shown = if args.all { Shown::All } else { Shown::Largest };
        print_either(global, &found, || diff::text(&found, shown))?;
    }
    Ok(if found.equal { ExitCode::SUCCESS } else { ExitCode::from(Code::Different as u8) })
}

/// Opens a bundle or an image to be compared or drawn.
fn side(path: &Path) -> Outcome<Side> {
    Side::open(path).map_err(unread)
}

fn unread(error: DiffError) -> Failure {
    Failure::new(diff_code(&error), error)
}

/// Writes a treemap. Whether it went into a file: `-` is stdout.
fn draw(file: &Path, side: &Side, against: Option<&Difference>) -> Outcome<bool> {
    let page = treemap::html(side, against).map_err(unread)?;
    if file == Path::new("-") {
        print(&page)?;
        return Ok(false);
    }
    fs_err::write(file, page).or_fail(Code::Failed)?;
    Ok(true)
}

/// `imgbuild verify`.
pub(crate) fn verify(args: &args::Verify, global: &Global) -> Outcome {
    let bundle = open(&args.bundle)?;
    // It has a manifest, so it is a bundle; a file that is missing is damage.
    bundle.verify().or_fail(Code::Verification)?;
    let sha256 = bundle.manifest_sha256().or_fail(Code::Input)?;
    let files = bundle.manifest().files.len() + 1;
    print_either(global, &serde_json::json!({ "files": files, "manifest_sha256": sha256 }), || {
        format!("{}: {files} files are whole, manifest sha256:{sha256}", args.bundle.display())
    })
}
