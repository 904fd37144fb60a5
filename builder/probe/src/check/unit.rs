//! `unit`: a systemd unit's state.

use super::{Verdict, properties};
use crate::spec::Unit;
use crate::system::System;

pub(super) fn check(Unit { unit, state }: &Unit, system: &dyn System) -> Verdict {
    let expected = format!("{unit} {state}");
    let properties = match properties(system, unit, "LoadState,ActiveState,SubState,Result,NRestarts") {
        Ok(properties) => properties,
        Err(why) => return Verdict::new(false, expected, why),
    };
    let get = |name: &str| properties.get(name);
    let (load, active, sub) = (get("LoadState"), get("ActiveState"), get("SubState"));
    // `state = "running"` is what people call a service's substate.
    let holds = active == state || sub == state;
    let mut found = if load == "loaded" { format!("{active} ({sub})") } else { format!("{active} ({load})") };
    match get("Result") {
        "" | "success" => {}
        result => found = format!("{found}, result {result}"),
    }
    match get("NRestarts") {
        "" | "0" => {}
        restarts => found = format!("{found}, {restarts} restarts"),
    }
    Verdict::new(holds, expected, found)
}

#[cfg(test)]
mod tests {
    use super::super::tests::attempt;
    use super::*;
    use crate::system::fake::Fake;

    const SHOW: &str =
        "systemctl show --no-pager -p LoadState,ActiveState,SubState,Result,NRestarts -- containerd.service";

    fn unit(state: &str, system: &Fake) -> Verdict {
        attempt(&format!(r#"{{"unit": "containerd.service", "state": "{state}"}}"#), system)
    }

    #[test]
    fn a_units_state() {
        let system = Fake::default();
        let running = "Result=success\nNRestarts=0\nLoadState=loaded\nActiveState=active\nSubState=running\n";
        system.answer(SHOW, 0, running, "");
        assert_eq!(unit("active", &system), Verdict::new(true, "containerd.service active", "active (running)"));
        assert!(unit("running", &system).holds);
        assert!(!unit("inactive", &system).holds);
    }

    #[test]
    fn a_unit_that_failed_is_absent_or_cannot_be_asked_about() {
        let system = Fake::default();
        system.answer(
            SHOW,
            0,
            "Result=exit-code\nNRestarts=5\nLoadState=loaded\nActiveState=failed\nSubState=failed\n",
            "",
        );
        system.answer(
            SHOW,
            0,
            "Result=success\nNRestarts=0\nLoadState=not-found\nActiveState=inactive\nSubState=dead\n",
            "",
        );
        system.answer(SHOW, 1, "", "Failed to connect to bus\n");
        assert_eq!(unit("active", &system).found, "failed (failed), result exit-code, 5 restarts");
        assert_eq!(unit("active", &system).found, "inactive (not-found)");
        assert_eq!(unit("active", &system).found, "systemctl: exit status 1; stderr `Failed to connect to bus`");
        assert!(!unit("active", &Fake::default()).holds);
    }
}
