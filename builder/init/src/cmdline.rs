//! The kernel's command line, as far as it concerns us.

use std::net::Ipv4Addr;
use std::time::Duration;

use crate::failure::Policy;
use crate::net::Mac;

/// Every parameter of ours, with what it means; the documentation's table is made of this.
pub const PARAMETERS: &[(&str, &str)] = &[
    ("netboot.root", "URLs of the root, tried in order; separated by commas or given several times"),
    ("netboot.sha256", "SHA-256 of the root, instead of the one that the initrd was built with"),
    ("netboot.config", "URL of this node's configuration"),
    ("netboot.nic", "MAC address or name of the network interface to use"),
    ("netboot.debug", "say more; allow `netboot.on_failure=shell`"),
    ("netboot.on_failure", "`reboot` (default), `reboot:SECONDS`, `halt`, `poweroff` or `shell`"),
    ("netboot.delay", "wait a random time of up to so many seconds before the download, to spare the boot server"),
    ("netboot.timeout", "give up on DHCP after so many seconds; 0, the default, is never"),
];

/// The documentation's table.
#[must_use]
pub fn markdown() -> String {
    let rows = PARAMETERS.iter().map(|(name, meaning)| format!("| `{name}` | {meaning} |\n"));
    std::iter::once("| parameter | meaning |\n|---|---|\n".to_owned()).chain(rows).collect()
}

/// What the command line says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Parameters {
    /// `netboot.root=`.
    pub root: Vec<String>,
    /// `netboot.sha256=`, lower case.
    pub sha256: Option<String>,
    /// `netboot.config=`.
    pub config: Option<String>,
    /// `netboot.nic=`.
    pub nic: Option<NicName>,
    /// `BOOTIF=`, as PXE loaders write it.
    pub bootif: Option<Mac>,
    /// `netboot.debug`.
    pub debug: bool,
    /// `netboot.on_failure=`.
    pub on_failure: Policy,
    /// `netboot.delay=`.
    pub delay: Duration,
    /// `netboot.timeout=`; none is for ever.
    pub timeout: Option<Duration>,
    /// `ip=`.
    pub ip: Option<Ip>,
    /// `init=`: what to run in the new root.
    pub init: Option<String>,
    /// `modprobe.blacklist=`: modules not to load for a device, in underscores.
    pub blacklist: Vec<String>,
    /// `MODULE.PARAMETER=VALUE`, module in underscores.
    pub module_parameters: Vec<(String, String)>,
}

/// How an interface is named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NicName {
    /// By its address, which is the same in the initrd and in the system.
    Mac(Mac),
    /// By the kernel's name, which may not be.
    Name(String),
}

/// The kernel's `ip=`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ip {
    /// By DHCP, on one interface or on any.
    Dhcp(Option<NicName>),
    /// As given.
    Static(Box<Static>),
    /// Not at all.
    Off,
}

/// A static address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Static {
    /// The node's address.
    pub address: Ipv4Addr,
    /// Length of its network's prefix in bits, 0 to 32.
    pub prefix: u8,
    /// Default gateway.
    pub gateway: Option<Ipv4Addr>,
    /// Host name.
    pub hostname: Option<String>,
    /// Interface; none is the one chosen otherwise.
    pub device: Option<NicName>,
    /// Name servers.
    pub dns: Vec<Ipv4Addr>,
    /// Time servers.
    pub ntp: Vec<Ipv4Addr>,
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
                    if url.starts_with("http://") {
                        parameters.root.push(url.to_owned());
                    } else {
                        self.errors.push(format!("netboot.root={url}: only http:// can be fetched"));
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
            "netboot.config" => parameters.config = Some(given.to_owned()).filter(|url| !url.is_empty()),
            "netboot.nic" => parameters.nic = nic_name(given),
            "BOOTIF" => match Mac::parse_bootif(given) {
                Some(mac) => parameters.bootif = Some(mac),
                None => self.warnings.push(format!("BOOTIF={given}: not of the form 01-52-54-00-12-34-56, ignored")),
            },
            "netboot.debug" => parameters.debug = !matches!(value, Some("0" | "no" | "off")),
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
            "netboot.timeout" => match given.parse() {
                Ok(0) => parameters.timeout = None,
                Ok(seconds) => parameters.timeout = Some(Duration::from_secs(seconds)),
                Err(_) => self.warnings.push(format!("netboot.timeout={given}: not a number of seconds, ignored")),
            },
            "ip" => match parse_ip(given) {
                Ok(ip) => parameters.ip = Some(ip),
                Err(why) => self.errors.push(format!("ip={given}: {why}")),
            },
            "vlan" | "bond" => self.errors.push(format!("{key}={given}: this version cannot boot over it")),
            "init" => parameters.init = Some(given.to_owned()).filter(|path| path.starts_with('/')),
            "modprobe.blacklist" => parameters.blacklist.extend(given.split(',').map(underscored)),
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

/// A module's name as the kernel spells it.
#[must_use]
pub fn underscored(name: &str) -> String {
    name.replace('-', "_")
}

fn nic_name(text: &str) -> Option<NicName> {
    if text.is_empty() {
        return None;
    }
    Some(Mac::parse(text).map_or_else(|| NicName::Name(text.to_owned()), NicName::Mac))
}

/// `ip=dhcp`, dracut's `ip=DEVICE:dhcp`, or the kernel's
/// `ip=CLIENT:SERVER:GATEWAY:NETMASK:HOSTNAME:DEVICE:AUTOCONF:DNS0:DNS1:NTP0`.
fn parse_ip(text: &str) -> Result<Ip, String> {
    let fields: Vec<&str> = text.split(':').collect();
    match fields.as_slice() {
        [method] => return autoconf(method, None),
        [device, method] if method.parse::<Ipv4Addr>().is_err() && !method.is_empty() => {
            return autoconf(method, nic_name(device));
        }
        _ => {}
    }
    let field = |index: usize| fields.get(index).copied().filter(|field| !field.is_empty());
    let address = |index: usize, what: &str| match field(index) {
        Some(text) => text.parse::<Ipv4Addr>().map(Some).map_err(|_| format!("`{text}` is not an IPv4 {what}")),
        None => Ok(None),
    };
    let device = field(5).and_then(nic_name);
    let Some(client) = address(0, "address")? else {
        return autoconf(field(6).unwrap_or("any"), device);
    };
    let mut dns = Vec::new();
    dns.extend(address(7, "address of a name server")?);
    dns.extend(address(8, "address of a name server")?);
    Ok(Ip::Static(Box::new(Static {
        address: client,
        prefix: prefix(field(3), client)?,
        gateway: address(2, "gateway")?,
        hostname: field(4).map(str::to_owned),
        device,
        dns,
        ntp: address(9, "address of a time server")?.into_iter().collect(),
    })))
}

fn autoconf(method: &str, device: Option<NicName>) -> Result<Ip, String> {
    match method {
        "dhcp" | "on" | "any" | "both" => Ok(Ip::Dhcp(device)),
        "off" | "none" => Ok(Ip::Off),
        other => Err(format!("`{other}` is not a way to get an address; dhcp, a static address and off are known")),
    }
}

/// A netmask in any of its spellings; without one, that of the address's class, as the kernel does.
fn prefix(mask: Option<&str>, address: Ipv4Addr) -> Result<u8, String> {
    let Some(mask) = mask else {
        return Ok(match address.octets()[0] {
            0..=127 => 8,
            128..=191 => 16,
            _ => 24,
        });
    };
    if let Ok(bits) = mask.parse::<u8>()
        && bits <= 32
    {
        return Ok(bits);
    }
    mask.parse::<Ipv4Addr>().ok().and_then(prefix_of_mask).ok_or_else(|| format!("`{mask}` is not a netmask"))
}

/// Length of the prefix that a netmask stands for; none when its ones are not all in front.
#[must_use]
pub fn prefix_of_mask(mask: Ipv4Addr) -> Option<u8> {
    let bits = u32::from(mask);
    let ones = bits.leading_ones();
    (bits.count_ones() == ones).then(|| u8::try_from(ones).ok()).flatten()
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
fn distance(a: &str, b: &str) -> usize {
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
             netboot.on_failure=reboot:5 netboot.delay=7 netboot.timeout=60 init=/bin/x modprobe.blacklist=ast,i2c-x \
             virtio-net.napi_tx=1 netboot.config=http://c/n.json -- netboot.root=ftp://x"
        ));
        assert_eq!(p.sha256.as_deref(), Some("a".repeat(64).as_str()));
        assert_eq!(p.nic, Some(NicName::Mac(Mac([0x52, 0x54, 0, 0xab, 0xcd, 1]))));
        assert_eq!(p.bootif, Some(Mac([0x52, 0x54, 0, 0x12, 0x34, 0x56])));
        assert!(p.debug);
        assert_eq!(p.on_failure, Policy::Reboot { pause: Duration::from_secs(5) });
        assert_eq!((p.delay, p.timeout), (Duration::from_secs(7), Some(Duration::from_secs(60))));
        assert_eq!(p.init.as_deref(), Some("/bin/x"));
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
    fn what_would_boot_something_else_is_an_error() {
        for text in ["netboot.sha256=abc", "netboot.root=ftp://a/b", "ip=10.0.0.300::", "ip=frob", "vlan=eth0.5:eth0"] {
            assert_eq!(parse(text).errors.len(), 1, "{text}");
        }
    }

    #[test]
    fn ip_in_the_kernels_and_in_dracuts_spelling() {
        let ip = |text: &str| parse_ip(text).unwrap();
        assert_eq!(ip("dhcp"), Ip::Dhcp(None));
        assert_eq!(ip("none"), Ip::Off);
        assert_eq!(ip("eth1:dhcp"), Ip::Dhcp(Some(NicName::Name("eth1".into()))));
        assert_eq!(ip(":::::eth1:dhcp"), Ip::Dhcp(Some(NicName::Name("eth1".into()))));
        let Ip::Static(full) =
            ip("10.1.2.3:10.1.2.1:10.1.2.254:255.255.254.0:n1:52-54-00-12-34-56:off:9.9.9.9:8.8.8.8:10.1.2.9")
        else {
            panic!("not static")
        };
        assert_eq!(full.prefix, 23);
        assert_eq!(full.gateway, Some(Ipv4Addr::new(10, 1, 2, 254)));
        assert_eq!(full.hostname.as_deref(), Some("n1"));
        assert_eq!(full.device, Some(NicName::Mac(Mac([0x52, 0x54, 0, 0x12, 0x34, 0x56]))));
        assert_eq!(full.dns.len(), 2);
        assert_eq!(full.ntp, [Ipv4Addr::new(10, 1, 2, 9)]);
        let Ip::Static(short) = ip("172.16.0.5:::") else { panic!("not static") };
        assert_eq!((short.prefix, short.gateway), (16, None));
        assert!(parse_ip("10.0.0.1:::255.0.255.0").is_err());
    }
}
