//! The kernel's command line, as far as it concerns us.

mod network;

use std::net::IpAddr;
use std::time::Duration;

use crate::failure::Policy;
use crate::fetch::MOST_CONNECTIONS;
use crate::net::Mac;
use crate::net::bond::Bond;
use crate::shell::BreakPoint;
use crate::template;
pub use network::{Families, Ip, NicName, Static, Vlan, prefix_of_mask};

/// Every parameter of ours, with what it means; the documentation's table is made of this.
pub const PARAMETERS: &[(&str, &str)] = &[
    ("netboot.root", "URLs of the root, tried in order; separated by commas or given several times"),
    ("netboot.sha256", "SHA-256 of the root, instead of the one that the initrd was built with"),
    (
        "netboot.config",
        "URLs of this node's configuration, tried in order; `${mac}`, `${uuid}`, `${serial}` and `${hostname}` are filled in",
    ),
    ("netboot.nic", "MAC address or name of the network interface to use"),
    (
        "netboot.handover",
        "`keep`: the system finds addresses and links as they are; `down`: it finds the links off. Default: `keep` where \
         the root has systemd-networkd enabled",
    ),
    (
        "netboot.debug",
        "say more; allow `netboot.on_failure=shell`; with names, a shell at these points: `pre-network`, `post-network`, `post-fetch`, `post-mount`, `pre-switch`",
    ),
    ("netboot.check", "do everything up to the start of the system, report, and power off"),
    (
        "netboot.report",
        "URL that gets a report by POST, of a failure with the logs, of a success in short; filled in as `netboot.config`",
    ),
    ("netboot.on_failure", "`reboot` (default), `reboot:SECONDS`, `halt`, `poweroff` or `shell`"),
    (
        "netboot.delay",
        "wait a random time of up to so many seconds before the boot server is asked for anything, to spare it",
    ),
    (
        "netboot.min_speed",
        "KiB a second below which a source of the root is left for the next one, over 20 s; 64 if not given, 0 for never",
    ),
    (
        "netboot.connections",
        "how many requests at once there are for pieces of the root, 1 to 8; 1 if not given. More are faster where a server or a long line limits each one",
    ),
    (
        "netboot.time",
        "seconds since 1970-01-01 UTC by somebody else's clock: the node's is raised to it if it is behind",
    ),
    ("netboot.timeout", "give up on DHCP after so many seconds; 0, the default, is never"),
];

/// Parameters that others have made and people know, as they are read here.
pub const FAMILIAR: &[(&str, &str)] = &[
    ("BOOTIF", "MAC address of the interface that the boot loader used, `01-52-54-00-12-34-56`: use just this one"),
    (
        "ip",
        "`dhcp` (IPv4), `dhcp6` or `auto6` (IPv6, as the routers say), `any` (both at once, the default), `off`; \
         `DEVICE:dhcp` and so on; `ADDRESS::GATEWAY:NETMASK:HOSTNAME:DEVICE:off:DNS:DNS:NTP`, or dracut's `…:off:MTU`; \
         IPv6 addresses in brackets, with the prefix's length as netmask; DEVICE may be a MAC with dashes. Twice for one \
         address of each family",
    ),
    (
        "vlan",
        "`NAME:PARENT`: boot over a VLAN, whose id is at the end of its name: `vlan12:eth0`, `eth0.12:eth0`, \
         `vlan12:52-54-00-12-34-56`; without PARENT over the interface chosen otherwise, or over each that may be",
    ),
    (
        "bond",
        "`NAME:MEMBER,MEMBER:OPTION=VALUE,OPTION=VALUE:MTU`: boot over a bond, with the bonding driver's options; members \
         may be MACs with dashes; `miimon=100` unless given",
    ),
    ("ifname", "`NAME:MAC`: call the interface with this address so"),
    ("nameserver", "a name server, asked before those that the network names; may be given several times"),
    ("init", "what to start in the root instead of `/sbin/init`"),
    ("modprobe.blacklist", "modules not to load for a device, separated by commas; also `rd.driver.blacklist`"),
    ("MODULE.PARAMETER", "a parameter for a module"),
];

/// The documentation's table.
#[must_use]
pub fn markdown() -> String {
    let rows = PARAMETERS.iter().chain(FAMILIAR).map(|(name, meaning)| format!("| `{name}` | {meaning} |\n"));
    std::iter::once("| parameter | meaning |\n|---|---|\n".to_owned()).chain(rows).collect()
}

/// The documentation's page.
#[must_use]
pub fn reference() -> String {
    format!(
        "# The node's kernel command line\n\nWhat netboot-init takes from it. A `netboot.` parameter that is not known is told with the nearest \
         one and ignored. Double\nquotes protect blanks.\n\n{}\n{}\n{CLOCK}",
        markdown(),
        crate::failure::REFERENCE,
    )
}

/// The documentation's words on the clock.
const CLOCK: &str = "\
## The clock

Certificates are good from some date on: to a node whose clock stands before that, no `https://` server is one to believe. A clock
that is behind the build's time is raised to it when the boot begins, and none is ever set back. But that time is the newest input's
(`SOURCE_DATE_EPOCH`), which may be months old, and the server's certificate newer. A node whose clock starts anew each time (an empty
battery) then needs `netboot.time=`, from whoever writes its boot script: a boot server that makes scripts on demand, or an iPXE that
was built with `NTP_CMD`, which is not the default, in a node's script:

    ntp pool.ntp.org ||
    set netboot-append netboot.time=${unixtime}

Without `ntp`, iPXE's `unixtime` is what the same clock says.
";

/// What the command line says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Parameters {
    /// `netboot.root=`.
    pub root: Vec<String>,
    /// `netboot.sha256=`, lower case.
    pub sha256: Option<String>,
    /// `netboot.config=`, not yet filled in.
    pub config: Vec<String>,
    /// `netboot.nic=`.
    pub nic: Option<NicName>,
    /// `BOOTIF=`, as PXE loaders write it.
    pub bootif: Option<Mac>,
    /// `netboot.debug`.
    pub debug: bool,
    /// `netboot.debug=POINT,…`: where a shell is wanted.
    pub break_points: Vec<BreakPoint>,
    /// `netboot.check`.
    pub check: bool,
    /// `netboot.report=`, not yet filled in.
    pub report: Option<String>,
    /// `netboot.on_failure=`.
    pub on_failure: Policy,
    /// `netboot.delay=`.
    pub delay: Duration,
    /// `netboot.min_speed=`, in KiB a second.
    pub min_speed: Option<u32>,
    /// `netboot.connections=`.
    pub connections: Option<u32>,
    /// `netboot.time=`, in seconds since 1970-01-01 UTC.
    pub time: Option<i64>,
    /// `netboot.timeout=`; none is for ever.
    pub timeout: Option<Duration>,
    /// `netboot.handover=`; none is as the root has it.
    pub handover: Option<Handover>,
    /// `ip=`.
    pub ip: Option<Ip>,
    /// `vlan=`.
    pub vlan: Option<Vlan>,
    /// `bond=`.
    pub bond: Option<Bond>,
    /// `ifname=`: names for interfaces by their addresses.
    pub names: Vec<(String, Mac)>,
    /// `nameserver=`: name servers, before those that the network names.
    pub nameservers: Vec<IpAddr>,
    /// `init=`: what to run in the new root.
    pub init: Option<String>,
    /// `modprobe.blacklist=`: modules not to load for a device, in underscores.
    pub blacklist: Vec<String>,
    /// `MODULE.PARAMETER=VALUE`, module in underscores.
    pub module_parameters: Vec<(String, String)>,
}

/// What the system is to find of the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handover {
    /// Addresses and links as they are.
    Keep,
    /// Links that are off, without addresses.
    Down,
}

impl Parameters {
    /// Takes in what concerns the network and is not ours alone.
    fn network(&mut self, key: &str, given: &str) -> Result<(), String> {
        match key {
            "ip" => self.ip = Some(network::add_ip(self.ip.take(), given)?),
            "vlan" => only_one(&mut self.vlan, network::parse_vlan(given)?)?,
            "bond" => {
                only_one(&mut self.bond, network::parse_bond(given)?)?;
                // Otherwise the driver makes a bond0 of its own, without members and with its own options.
                self.module_parameters.insert(0, ("bonding".into(), "max_bonds=0".into()));
            }
            "ifname" => self.names.push(network::parse_ifname(given)?),
            _ => self.nameservers.push(network::server(given)?),
        }
        Ok(())
    }
}

fn only_one<T: PartialEq>(place: &mut Option<T>, value: T) -> Result<(), String> {
    if place.as_ref().is_some_and(|before| *before != value) {
        return Err("another one before it; the initrd makes one, leave others to the system".into());
    }
    *place = Some(value);
    Ok(())
}

/// A command line with what is wrong with it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Parsed {
    /// What could be understood.
    pub parameters: Parameters,
    /// What is odd, but does not stop a boot.
    pub warnings: Vec<String>,
    /// What the node must not boot with: guessing would boot something else than was asked for.
    pub errors: Vec<String>,
}

/// Splits a command line as the kernel does: blanks separate, double quotes protect them and vanish.
#[must_use]
pub fn tokens(text: &str) -> Vec<String> {
    let mut tokens = Vec::new();
    let mut token = String::new();
    let mut quoted = false;
    let mut begun = false;
    for c in text.chars() {
        match c {
            '"' => {
                quoted = !quoted;
                begun = true;
            }
            c if c.is_ascii_whitespace() && !quoted => {
                if begun {
                    tokens.push(std::mem::take(&mut token));
                    begun = false;
                }
            }
            c => {
                token.push(c);
                begun = true;
            }
        }
    }
    if begun {
        tokens.push(token);
    }
    tokens
}

/// Reads a command line.
#[must_use]
pub fn parse(text: &str) -> Parsed {
    let mut parsed = Parsed::default();
    // What follows `--` belongs to the new root's init.
    for token in tokens(text).iter().take_while(|token| *token != "--") {
        let (key, value) = match token.split_once('=') {
            Some((key, value)) => (key, Some(value)),
            None => (token.as_str(), None),
        };
        parsed.take(key, value);
    }
    parsed
}

impl Parsed {
    fn take(&mut self, key: &str, value: Option<&str>) {
        let parameters = &mut self.parameters;
        let given = value.unwrap_or_default();
        match key {
            "netboot.root" => {
                for url in given.split(',').filter(|url| !url.is_empty()) {
                    match check_scheme(url) {
                        Ok(()) => parameters.root.push(url.to_owned()),
                        Err(why) => self.errors.push(format!("{key}={url}: {why}")),
                    }
                }
            }
            "netboot.sha256" => {
                if given.len() == 64 && given.bytes().all(|b| b.is_ascii_hexdigit()) {
                    parameters.sha256 = Some(given.to_ascii_lowercase());
                } else {
                    self.errors.push(format!("netboot.sha256={given}: expected 64 hexadecimal digits"));
                }
            }
            "netboot.nic" => match NicName::parse(given) {
                Some(name) => parameters.nic = Some(name),
                None if given.is_empty() => parameters.nic = None,
                None => self.errors.push(format!("netboot.nic={given}: neither a MAC address nor a name")),
            },
            "netboot.handover" => match given {
                "keep" => parameters.handover = Some(Handover::Keep),
                "down" => parameters.handover = Some(Handover::Down),
                _ => self.warnings.push(format!("netboot.handover={given}: expected keep or down, ignored")),
            },
            "netboot.config" => {
                for url in given.split(',').filter(|url| !url.is_empty()) {
                    match check_scheme(url).and_then(|()| template::check(url)) {
                        Ok(()) => parameters.config.push(url.to_owned()),
                        Err(why) => self.errors.push(format!("{key}={url}: {why}")),
                    }
                }
            }
            // No reason not to boot.
            "netboot.report" => match check_scheme(given).and_then(|()| template::check(given)) {
                Ok(()) => parameters.report = Some(given.to_owned()),
                Err(why) => self.warnings.push(format!("{key}={given}: {why}; nothing will be reported")),
            },
            "BOOTIF" => match Mac::parse_bootif(given) {
                Some(mac) => parameters.bootif = Some(mac),
                None => self.warnings.push(format!("BOOTIF={given}: not of the form 01-52-54-00-12-34-56, ignored")),
            },
            "netboot.debug" => {
                parameters.debug = is_on(value);
                for name in given.split(',').filter(|name| !SWITCHES.contains(name)) {
                    match BreakPoint::parse(name) {
                        Some(point) => parameters.break_points.push(point),
                        None => self.warnings.push(format!(
                            "netboot.debug={name}: not a point to stop at, ignored; there are {}",
                            BreakPoint::names().join(", ")
                        )),
                    }
                }
            }
            "netboot.check" => parameters.check = is_on(value),
            "netboot.on_failure" => match Policy::parse(given) {
                Some(policy) => parameters.on_failure = policy,
                None => self.warnings.push(format!(
                    "netboot.on_failure={given}: expected reboot, reboot:SECONDS, halt, poweroff or shell; {} stays",
                    parameters.on_failure
                )),
            },
            "netboot.delay" => match given.parse() {
                Ok(seconds) => parameters.delay = Duration::from_secs(seconds),
                Err(_) => self.warnings.push(format!("netboot.delay={given}: not a number of seconds, ignored")),
            },
            "netboot.min_speed" => match given.parse() {
                Ok(speed) => parameters.min_speed = Some(speed),
                Err(_) => self.warnings.push(format!("netboot.min_speed={given}: not a number of KiB/s, ignored")),
            },
            "netboot.connections" => match given.parse() {
                Ok(connections @ 1..=MOST_CONNECTIONS) => parameters.connections = Some(connections),
                _ => self.warnings.push(format!(
                    "netboot.connections={given}: expected a number from 1 to {MOST_CONNECTIONS}, ignored"
                )),
            },
            "netboot.time" => match given.parse() {
                Ok(seconds) => parameters.time = Some(seconds),
                // What a boot loader's script makes of a setting that it does not have.
                Err(_) if given.is_empty() => {}
                Err(_) => self.warnings.push(format!("netboot.time={given}: not a number of seconds, ignored")),
            },
            "netboot.timeout" => match given.parse() {
                Ok(0) => parameters.timeout = None,
                Ok(seconds) => parameters.timeout = Some(Duration::from_secs(seconds)),
                Err(_) => self.warnings.push(format!("netboot.timeout={given}: not a number of seconds, ignored")),
            },
            "ip" | "vlan" | "bond" | "ifname" | "nameserver" => {
                if let Err(why) = parameters.network(key, given) {
                    self.errors.push(format!("{key}={given}: {why}"));
                }
            }
            "init" => parameters.init = Some(given.to_owned()).filter(|path| path.starts_with('/')),
            "modprobe.blacklist" | "rd.driver.blacklist" => {
                parameters.blacklist.extend(given.split(',').map(underscored));
            }
            _ => match key.strip_prefix("netboot.") {
                Some(_) => self.warnings.push(unknown(key)),
                None => self.module_parameter(key, given),
            },
        }
    }

    fn module_parameter(&mut self, key: &str, value: &str) {
        if let Some((module, parameter)) = key.split_once('.')
            && !module.is_empty()
            && !parameter.is_empty()
        {
            // The quotes are back, since the kernel splits a module's parameters at blanks as well.
            let quote = if value.contains(' ') { "\"" } else { "" };
            self.parameters.module_parameters.push((underscored(module), format!("{parameter}={quote}{value}{quote}")));
        }
    }
}

/// What switches a parameter without names on and off.
const SWITCHES: &[&str] = &["", "1", "0", "yes", "no", "on", "off"];

fn is_on(value: Option<&str>) -> bool {
    !matches!(value, Some("0" | "no" | "off"))
}

fn check_scheme(url: &str) -> Result<(), String> {
    if url.starts_with("http://") || (cfg!(feature = "tls") && url.starts_with("https://")) {
        return Ok(());
    }
    if url.starts_with("https://") {
        return Err("this initrd speaks no TLS: its recipe has no [root] ca; only http:// can be fetched".to_owned());
    }
    Err(if cfg!(feature = "tls") { "only http:// and https:// can be fetched" } else { "only http:// can be fetched" }
        .into())
}

/// A module's name as the kernel spells it.
#[must_use]
pub fn underscored(name: &str) -> String {
    name.replace('-', "_")
}

fn unknown(key: &str) -> String {
    let nearest = PARAMETERS.iter().map(|(name, _)| (distance(key, name), *name)).min();
    match nearest {
        Some((steps, name)) if steps <= 3 => format!("{key} is not known, ignored: did you mean {name}?"),
        _ => {
            let names: Vec<&str> = PARAMETERS.iter().map(|(name, _)| *name).collect();
            format!("{key} is not known, ignored; known are {}", names.join(", "))
        }
    }
}

/// Levenshtein's distance.
pub(crate) fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut next = vec![i + 1];
        for (j, cb) in b.iter().enumerate() {
            let swap = row[j] + usize::from(ca != *cb);
            next.push(swap.min(row[j + 1] + 1).min(next[j] + 1));
        }
        row = next;
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parameters(text: &str) -> Parameters {
        let parsed = parse(text);
        assert_eq!((parsed.warnings, parsed.errors), (vec![], vec![]), "{text}");
        parsed.parameters
    }

    #[test]
    fn the_documentation_has_the_table() {
        assert!(include_str!("../README.md").contains(&markdown()), "put this into README.md:\n{}", markdown());
    }

    #[test]
    fn quotes_protect_blanks_and_vanish() {
        assert_eq!(tokens(" a=\"b c\" \"d=e f\"  g\n"), ["a=b c", "d=e f", "g"]);
        assert_eq!(tokens("a=\"\" \"\" x\"y"), ["a=", "", "xy"]);
    }

    #[test]
    fn several_roots_in_one_parameter_or_in_many() {
        let p = parameters("quiet netboot.root=http://a/r,http://b/r console=ttyS0,115200 netboot.root=http://c/r");
        assert_eq!(p.root, ["http://a/r", "http://b/r", "http://c/r"]);
    }

    #[test]
    fn everything_at_once() {
        let sha = "A".repeat(64);
        let p = parameters(&format!(
            "netboot.sha256={sha} netboot.nic=52:54:00:AB:cd:01 BOOTIF=01-52-54-00-12-34-56 netboot.debug \
             netboot.on_failure=reboot:5 netboot.delay=7 netboot.timeout=60 netboot.min_speed=9 netboot.connections=4 init=/bin/x modprobe.blacklist=ast,i2c-x \
             virtio-net.napi_tx=1 netboot.config=http://c/${{mac}}.json,http://d/n.json netboot.check \
             netboot.report=http://c/report -- netboot.root=ftp://x"
        ));
        assert_eq!(p.sha256.as_deref(), Some("a".repeat(64).as_str()));
        assert_eq!(p.nic, Some(NicName::Mac(Mac([0x52, 0x54, 0, 0xab, 0xcd, 1]))));
        assert_eq!(p.bootif, Some(Mac([0x52, 0x54, 0, 0x12, 0x34, 0x56])));
        assert!(p.debug && p.check && p.break_points.is_empty());
        assert_eq!(p.config, ["http://c/${mac}.json", "http://d/n.json"]);
        assert_eq!(p.report.as_deref(), Some("http://c/report"));
        assert_eq!(p.on_failure, Policy::Reboot { pause: Some(Duration::from_secs(5)) });
        assert_eq!((p.delay, p.timeout), (Duration::from_secs(7), Some(Duration::from_secs(60))));
        assert_eq!((p.min_speed, p.connections, p.init.as_deref()), (Some(9), Some(4), Some("/bin/x")));
        assert_eq!(p.blacklist, ["ast", "i2c_x"]);
        assert_eq!(p.module_parameters, [("virtio_net".to_owned(), "napi_tx=1".to_owned())]);
        assert_eq!(p.root, [] as [&str; 0]);
    }

    #[test]
    fn unknown_parameters_of_ours_name_the_nearest() {
        let warnings = parse("netboot.rot=http://x netboot.frobnicate=1 other.thing=1").warnings;
        assert_eq!(warnings[0], "netboot.rot is not known, ignored: did you mean netboot.root?");
        assert!(warnings[1].contains("known are netboot.root,"), "{}", warnings[1]);
        assert_eq!(warnings.len(), 2);
    }

    #[test]
    fn a_boot_server_is_not_asked_for_a_hundred_pieces_at_once() {
        for given in ["0", "9", "many", ""] {
            let parsed = parse(&format!("netboot.connections={given}"));
            assert_eq!(parsed.parameters.connections, None);
            assert_eq!(
                parsed.warnings,
                [format!("netboot.connections={given}: expected a number from 1 to 8, ignored")]
            );
        }
    }

    #[test]
    fn the_time_may_be_empty_but_not_words() {
        assert_eq!(parameters("netboot.time=1789000000").time, Some(1_789_000_000));
        // A boot loader without the setting.
        assert_eq!(parameters("netboot.time=").time, None);
        let warnings = parse("netboot.time=noon").warnings;
        assert_eq!(warnings, ["netboot.time=noon: not a number of seconds, ignored"]);
    }

    #[test]
    fn what_would_boot_something_else_is_an_error() {
        for text in [
            "netboot.sha256=abc",
            "netboot.root=ftp://a/b",
            "netboot.config=http://a/${mca}",
            "ip=10.0.0.300::",
            "ip=frob",
            "vlan=eth0",
            "bond=b:a:x=1",
            "vlan=5 vlan=6",
            "nameserver=x",
            "netboot.nic=a/b",
            "ip=dhcp ip=off",
        ] {
            assert_eq!(parse(text).errors.len(), 1, "{text}");
        }
    }

    #[test]
    fn the_network_in_everybodys_spelling() {
        let p = parameters(
            "bond=bond0:52-54-00-00-00-01,52-54-00-00-00-02:mode=active-backup vlan=bond0.12:bond0 ip=bond0.12:dhcp \
             nameserver=[2001:db8::53] nameserver=192.0.2.53 ifname=lan:52:54:00:00:00:03 netboot.handover=down",
        );
        assert_eq!(p.bond.map(|bond| bond.mode().to_owned()).as_deref(), Some("active-backup"));
        assert_eq!(p.module_parameters, [("bonding".to_owned(), "max_bonds=0".to_owned())]);
        assert_eq!(p.vlan.map(|vlan| (vlan.id, vlan.parent)), Some((12, Some(NicName::Name("bond0".into())))));
        assert_eq!(p.ip, Some(Ip::Dhcp(Families::V4, Some(NicName::Name("bond0.12".into())))));
        assert_eq!((p.nameservers.len(), p.names.len(), p.handover), (2, 1, Some(Handover::Down)));
    }

    #[test]
    fn debugging_stops_where_it_is_told() {
        let p = parameters("netboot.debug=pre-switch,post-fetch");
        assert_eq!((p.debug, p.break_points), (true, vec![BreakPoint::PreSwitch, BreakPoint::PostFetch]));
        let p = parameters("netboot.debug=0 netboot.check=0");
        assert_eq!((p.debug, p.check, p.break_points), (false, false, vec![]));
        let warnings = parse("netboot.debug=later netboot.report=ftp://x").warnings;
        assert!(warnings[0].contains("there are pre-network, post-network,"), "{warnings:?}");
        assert!(warnings[1].ends_with("nothing will be reported"), "{warnings:?}");
    }
}
