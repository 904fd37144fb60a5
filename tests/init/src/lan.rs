//! A network in a namespace of its own, with a real DHCP server and a real boot server: dnsmasq and busybox. `unshare` makes it for
//! ordinary users too.

use std::path::Path;
use std::process::Command;

/// Its end of the cable has these addresses: 10.77.0.1/24 and 2001:db8::1/64. The first program ends the others with itself.
const STAGE: &str = r#"
set -eu
served=$1 options=$2
shift 2
ip link set lo up
ip tuntap add dev lan0 mode tap
# The addresses at once: nobody else has them.
echo 0 >/proc/sys/net/ipv6/conf/lan0/accept_dad
ip addr add 10.77.0.1/24 dev lan0
ip addr add 2001:db8::1/64 dev lan0 nodad
ip link set lan0 up
# `--no-daemon` keeps it from changing its user, which a user namespace forbids. Options have no blanks in them.
dnsmasq --conf-file=/dev/null --no-daemon --port=0 --interface=lan0 --bind-dynamic --pid-file= --leasefile-ro $options &
for address in 10.77.0.1 '[2001:db8::1]'; do
    busybox httpd -f -p "$address:80" -h "$served" &
done
"$@"
"#;

/// QEMU's arguments for the machine's end.
pub(crate) const NETDEV: &str = "-netdev tap,id=lan,ifname=lan0,script=no,downscript=no";

/// A program beside dnsmasq with these options, and a boot server with this file.
pub(crate) fn beside(options: &[String], root: &Path, program: &str) -> Command {
    let mut unshare = Command::new("unshare");
    // Whatever ends it, nothing is left behind.
    unshare.args(["--map-root-user", "--net", "--pid", "--fork", "--kill-child", "sh", "-c", STAGE, "lan"]);
    unshare.arg(root.parent().unwrap_or(root)).arg(options.join(" ")).arg(program);
    unshare
}
