//! Reports as `JUnit` XML, which build servers show.

use std::time::Duration;

use quick_junit::{NonSuccessKind, TestCase, TestCaseStatus, TestSuite};

use crate::report::Cause;
use crate::{Report, TestResult};

/// A suite for each report, a case for each of its tests, and one called `boot`, or `fault NAME`, for the boot itself: without that, an image that
/// never comes up would have no failure.
///
/// # Errors
/// When the XML cannot be made.
pub fn junit(reports: &[Report]) -> Result<String, quick_junit::SerializeError> {
    let mut all = quick_junit::Report::new("imgbuild test");
    all.add_test_suites(reports.iter().map(suite));
    all.to_string()
}

fn suite(report: &Report) -> TestSuite {
    let fault = report.fault.as_ref().map(|fault| format!("fault {}", fault.name));
    let with = fault.as_ref().map(|fault| format!(", {fault}")).unwrap_or_default();
    let name = format!("{} {} over {}{with}", report.name, report.version, report.path);
    let mut suite = TestSuite::new(name.clone());
    let mut boot = TestCase::new(fault.as_deref().unwrap_or("boot"), boot(report));
    boot.set_classname(name.clone()).set_time(seconds(report.seconds));
    suite.add_test_case(boot);
    for test in &report.tests {
        let mut case = TestCase::new(test.name.clone(), status(test));
        case.set_classname(name.clone()).set_time(seconds(test.seconds));
        suite.add_test_case(case);
    }
    suite.add_property(("memory", &*format!("{} MiB", report.memory >> 20)));
    suite.add_property(("accelerator", report.accelerator.name()));
    suite.add_property(("results", &*report.results.to_string_lossy()));
    suite.set_system_out(report.to_string());
    suite.set_time(seconds(report.seconds));
    suite
}

/// Failed where something else than a test did.
fn boot(report: &Report) -> TestCaseStatus {
    let Some(failure) = report.failure.as_ref().filter(|failure| !matches!(failure.cause, Cause::Tests { .. })) else {
        return TestCaseStatus::success();
    };
    let mut status = TestCaseStatus::non_success(NonSuccessKind::Error);
    let console = failure.console.join("\n");
    status
        .set_message(failure.cause.to_string())
        .set_type(failure.phase.to_string())
        .set_description(format!("phase {}\nlook at: {}\n{console}", failure.phase, failure.advice));
    status
}

fn status(test: &TestResult) -> TestCaseStatus {
    if test.passed {
        return TestCaseStatus::success();
    }
    let mut status = TestCaseStatus::non_success(NonSuccessKind::Failure);
    status.set_message(test.message.lines().next().unwrap_or_default()).set_description(test.message.clone());
    status
}

/// What comes from a guest may be no length of time.
fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::{Accelerator, BootPath, Failure, Fault, FaultReport, Phase};

    fn report(path: BootPath, cause: Option<Cause>) -> Report {
        let test = |index, name: &str, passed, message: &str| TestResult {
            index,
            name: name.to_owned(),
            passed,
            message: message.to_owned(),
            seconds: if passed { 0.5 } else { f64::NAN },
        };
        let failure = cause.map(|cause| Failure {
            cause,
            phase: Phase::System,
            advice: "the journal".to_owned(),
            refused: Vec::new(),
            console: vec!["\u{1b}[31mlast <words>".to_owned()],
        });
        Report {
            name: "worker".to_owned(),
            version: "1".to_owned(),
            path,
            accelerator: Accelerator::Tcg,
            memory: 2 << 30,
            fault: None,
            tests: vec![test(0, "kubelet runs", true, ""), test(1, "no swap", false, "exit 1\n<swap>\u{0}")],
            facts: BTreeMap::new(),
            reached: Vec::new(),
            timeline: Vec::new(),
            failure,
            seconds: 51.5,
            results: "/results".into(),
        }
    }

    #[test]
    fn what_failed_is_named() {
        let reports = [
            report(BootPath::Direct, Some(Cause::Tests { failed: 1 })),
            report(BootPath::PxeBios, Some(Cause::Timeout { seconds: 60 })),
        ];
        let text = junit(&reports).unwrap();
        for wanted in [
            r#"<testsuites name="imgbuild test" tests="6" skipped="0" failures="2" errors="1">"#,
            r#"<testsuite name="worker 1 over direct" tests="3" skipped="0" errors="0" failures="1""#,
            r#"<testcase name="kubelet runs" classname="worker 1 over direct" time="0.500""#,
            r#"<failure message="exit 1">exit 1
&lt;swap&gt;</failure>"#,
            r#"<error message="the probe had not finished after 60 s" type=""#,
            "last &lt;words&gt;",
            r#"<property name="memory" value="2048 MiB"/>"#,
        ] {
            assert!(text.contains(wanted), "{wanted} is missing:\n{text}");
        }
        assert!(!text.contains('\u{1b}') && !text.contains('\u{0}'), "{text}");
    }

    #[test]
    fn a_fault_that_is_not_met_is_named() {
        let fault = Fault::AlteredRoot;
        let reason = "the system came up, and all tests passed".to_owned();
        let mut report = report(BootPath::Direct, Some(Cause::Fault { reason }));
        let (done, expected) = (fault.what(), fault.expected());
        report.fault = Some(FaultReport { name: fault, done, expected, found: None });
        let text = junit(&[report]).unwrap();
        for wanted in [
            r#"<testsuite name="worker 1 over direct, fault altered-root" tests="3""#,
            r#"<testcase name="fault altered-root" classname="worker 1 over direct, fault altered-root""#,
            r#"<error message="the system came up, and all tests passed""#,
        ] {
            assert!(text.contains(wanted), "{wanted} is missing:\n{text}");
        }
    }
}
