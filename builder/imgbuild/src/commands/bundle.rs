//! Commands that look at a bundle.

use imgbuild_bundle::Bundle;
use imgbuild_bundle::inspect::{self, FileError};

use crate::args::{self, Global};
use crate::failure::{Code, Failure, OrFail, Outcome};
use crate::print_either;

/// Opens a bundle; what is none is an input that cannot be had.
fn open(path: &std::path::Path) -> Outcome<Bundle> {
    Bundle::open(path).or_fail(Code::Input)
}

/// `imgbuild inspect`.
pub(crate) fn inspect(args: &args::Inspect, global: &Global) -> Outcome {
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
