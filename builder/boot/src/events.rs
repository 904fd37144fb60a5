//! What the probe says over virtio-serial: one JSON object a line.

use std::io::{self, BufRead, BufReader, Read};

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A line longer than this is not the probe's.
const LONGEST: u64 = 1 << 20;

/// One line. Keys that are not known here are kept where they say something.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub(crate) enum Said {
    /// The probe runs.
    Hello {},
    /// Something worth knowing of the system.
    Fact {
        name: String,
        #[serde(default)]
        value: Value,
    },
    /// A test is over.
    Result(TestResult),
    /// All tests are over. With `files`, pieces of files and an end follow.
    Done {
        failed: u64,
        #[serde(default)]
        files: bool,
    },
    /// A piece of a file to keep.
    File { name: String, data: String },
    /// Nothing more comes.
    End {},
}

/// What came of one test.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TestResult {
    /// Which test it is, by its place among those that the probe was told, from 0.
    pub index: usize,
    /// The test's name.
    pub name: String,
    /// Whether it held before its time was up.
    pub passed: bool,
    /// What was found, for people, and what was expected where it did not hold.
    #[serde(default)]
    pub message: String,
    /// Seconds that the test took, tries included.
    #[serde(default)]
    pub seconds: f64,
}

/// Reads lines until the stream ends; `each` gets the line, and what it says or what is wrong with it.
pub(crate) fn read(stream: impl Read, mut each: impl FnMut(String, Result<Said, String>)) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let mut line = Vec::new();
        let read = (&mut stream).take(LONGEST).read_until(b'\n', &mut line)?;
        if read == 0 {
            return Ok(());
        }
        let text = String::from_utf8_lossy(&line).trim().to_owned();
        if text.is_empty() {
            continue;
        }
        let said = serde_json::from_str(&text).map_err(|error| error.to_string());
        each(text, said);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_and_nonsense_is_named() {
        let text = "\n{\"event\":\"hello\",\"schema\":1}\n{\"event\":\"fact\",\"name\":\"kernel\",\"value\":\"6.1\"}\n\
            {\"event\":\"result\",\"index\":0,\"name\":\"x\",\"passed\":true}\nnonsense\n{\"event\":\"done\",\"failed\":0,\"passed\":1}";
        let mut said = Vec::new();
        read(text.as_bytes(), |_, line| said.push(line)).unwrap();
        assert_eq!(said[0], Ok(Said::Hello {}));
        assert_eq!(said[1], Ok(Said::Fact { name: "kernel".into(), value: "6.1".into() }));
        assert!(matches!(&said[2], Ok(Said::Result(result)) if result.passed && result.name == "x"));
        assert!(said[3].is_err());
        assert_eq!(said[4], Ok(Said::Done { failed: 0, files: false }));
        assert_eq!(said.len(), 5);
    }
}
