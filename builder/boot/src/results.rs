//! The folder that a boot test writes its logs and its report into.

use std::{fs, path::PathBuf};

use crate::{Error, Report, error::failed, timeline_svg};

/// The report's name in the folder for logs.
pub(crate) const REPORT: &str = "report.json";
/// The time line's.
pub(crate) const TIMELINE: &str = "timeline.svg";
/// Files that the probe may send.
pub(crate) const SENT: [&str; 3] = ["netboot.log", "journal.log", "systemd-analyze.txt"];

/// The folder for logs.
pub(crate) struct Results {
    pub(crate) path: PathBuf,
    temporary: Option<tempfile::TempDir>,
}

impl Results {
    /// The wanted folder, made if need be and without an earlier run's report; else a temporary one.
    pub(crate) fn new(wanted: Option<&PathBuf>) -> Result<Self, Error> {
        if let Some(path) = wanted {
            fs::create_dir_all(path).map_err(failed("make the folder", path))?;
            for name in [REPORT, TIMELINE].into_iter().chain(SENT) {
                let old = path.join(name);
                match fs::remove_file(&old) {
                    Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                        return Err(failed("remove the earlier", old)(error));
                    }
                    _ => {}
                }
            }
            return Ok(Self { path: path.clone(), temporary: None });
        }
        let folder = tempfile::Builder::new()
            .prefix("imgbuild-test-")
            .tempdir()
            .map_err(failed("make a folder in", std::env::temp_dir()))?;
        Ok(Self { path: folder.path().to_owned(), temporary: Some(folder) })
    }

    pub(crate) fn create(&self, name: &str) -> Result<fs::File, Error> {
        let path = self.path.join(name);
        fs::File::create(&path).map_err(failed("write", path))
    }

    /// Writes the report and its time line. A temporary folder goes if the test passed.
    pub(crate) fn keep(self, report: &Report) -> Result<(), Error> {
        let path = self.path.join(REPORT);
        let mut text = serde_json::to_string_pretty(report)
            .map_err(|error| failed("write", &path)(std::io::Error::from(error)))?;
        text.push('\n');
        fs::write(&path, text).map_err(failed("write", path))?;
        let path = self.path.join(TIMELINE);
        let svg = timeline_svg(std::slice::from_ref(report)).map_err(failed("write", &path))?;
        fs::write(&path, svg).map_err(failed("write", path))?;
        if let Some(folder) = self.temporary
            && !report.passed()
        {
            // Its path is in the report.
            let _ = folder.keep();
        }
        Ok(())
    }
}
