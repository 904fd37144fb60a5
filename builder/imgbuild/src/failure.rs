//! How the command ends: a message for people, a code for scripts.

use std::fmt;
use std::process::ExitCode;

/// The exit codes of design §8.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Code {
    /// Something failed that none of the others names.
    Failed = 1,
    /// Wrong usage, or a recipe that is not right.
    Usage = 2,
    /// An input could not be had.
    Input = 3,
    /// Verification or a test failed.
    Verification = 4,
    /// `imgbuild diff` found a difference: no failure, and none of the codes that say one.
    Different = 5,
}

/// Why a command did not do what it was asked for.
#[derive(Debug)]
pub(crate) struct Failure {
    code: Code,
    error: anyhow::Error,
}

/// What commands return.
pub(crate) type Outcome<T = ()> = Result<T, Failure>;

impl Failure {
    pub(crate) fn new(code: Code, error: impl Into<anyhow::Error>) -> Self {
        Self { code, error: error.into() }
    }

    pub(crate) fn message(code: Code, message: impl Into<String>) -> Self {
        Self { code, error: anyhow::anyhow!(message.into()) }
    }

    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.code as u8)
    }

    /// For a terminal: `error: ` and the message, unless that begins so itself, as a recipe's diagnostics do.
    pub(crate) fn text(&self) -> String {
        let message = self.to_string();
        let own = ["error", "\u{1b}"].iter().any(|prefix| message.starts_with(prefix));
        if own { message } else { format!("error: {message}") }
    }

    pub(crate) fn code(&self) -> Code {
        self.code
    }
}

impl fmt::Display for Failure {
    /// The whole chain of causes, one a line, none twice.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut last = String::new();
        for (depth, cause) in self.error.chain().enumerate() {
            let text = cause.to_string();
            if last.contains(&text) {
                continue;
            }
            if depth > 0 {
                f.write_str("\n  because: ")?;
            }
            f.write_str(&text)?;
            last = text;
        }
        Ok(())
    }
}

/// The exit code of a bundle that cannot be used: what is damaged failed verification, what is none could not be had.
pub(crate) fn bundle_code(error: &imgbuild_bundle::Error) -> Code {
    match error {
        imgbuild_bundle::Error::Damaged { .. } => Code::Verification,
        _ => Code::Input,
    }
}

/// The exit code of what cannot be compared.
pub(crate) fn diff_code(error: &imgbuild_bundle::diff::DiffError) -> Code {
    match error {
        imgbuild_bundle::diff::DiffError::Bundle(error) => bundle_code(error),
        _ => Code::Input,
    }
}

/// Gives an error its exit code.
pub(crate) trait OrFail<T> {
    fn or_fail(self, code: Code) -> Outcome<T>;
}

impl<T, E: Into<anyhow::Error>> OrFail<T> for Result<T, E> {
    fn or_fail(self, code: Code) -> Outcome<T> {
        self.map_err(|e| Failure::new(code, e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_follow_each_other_without_repetition() {
        let inner = std::io::Error::other("disk on fire");
        let error = anyhow::Error::new(inner).context("cannot write /x: disk on fire").context("build failed");
        let shown = Failure { code: Code::Failed, error }.to_string();
        assert_eq!(shown, "build failed\n  because: cannot write /x: disk on fire");
    }
}
