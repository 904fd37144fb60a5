#!/bin/sh
# network.sh: the node's network, as files for systemd-networkd. A hook of the stage pre-init.
#
# Without any variable the network stays as the initrd brought it up (DHCP, ip=, vlan=, bond=) and described it for
# systemd-networkd: 90-netboot.network and so on. With one, this takes those files away, at which the initrd switches the
# link off, and writes its own. Where the initrd described nothing (netboot.handover=down), the interface that the node
# booted from gets its address by DHCP or as ip= says. It is known by its MAC (NETBOOT_MAC), never by a name, which the
# kernel and udev give differently.
#
#   NET_ADDRESS    static addresses with their prefix: 192.0.2.7/24 (several: separated by commas), or dhcp
#   NET_GATEWAY    default gateways
#   NET_DNS        name servers
#   NET_SEARCH     domains to search
#   NET_NTP        time servers
#   NET_MTU        MTU of the interface, of the bond and of the VLAN
#   NET_BOND       MACs of the interfaces to bond, the booted one among them
#   NET_BOND_MODE  802.3ad (default), active-backup, balance-xor…
#   NET_VLAN       VLAN id, 1 to 4094: addresses go on the VLAN
#
# They come from the node's configuration, as environment; what is not there is looked for on the kernel's command line,
# so that `NET_VLAN=12` in a node's boot script does it too.
#
# Everything goes to $NET_DIR (/run/systemd/network): it is gone with the boot that it was made for.
set -eu

dir=${NET_DIR:-/run/systemd/network}
cmdline=${NET_CMDLINE:-/proc/cmdline}

say() { echo "network.sh: $*"; }
die() {
    echo "network.sh: error: $*" >&2
    exit 1
}

# The value of $1 in the environment, else on the command line. Values are data: nothing is ever evaluated.
value() {
    found=$(printenv "$1" || true)
    if [ -z "$found" ] && [ -r "$cmdline" ]; then
        found=$(tr ' ' '\n' <"$cmdline" | sed -n "s/^$1=//p" | tail -n 1)
    fi
    case $found in
        *[!0-9A-Za-z.:/,\ _-]*) die "$1='$found' has characters that no such value has" ;;
    esac
    printf '%s' "$found"
}

# One line `KEY=value` for each of the values $2, separated by commas or blanks.
each() { printf '%s\n' "$2" | tr ', ' '\n' | sed -n "s|^..*|$1=&|p"; }

# MACs as networkd writes them.
lower() { printf '%s' "$1" | tr 'A-F-' 'a-f:'; }
is_mac() { printf '%s\n' "$1" | grep -Eiqx '([0-9a-f]{2}:){5}[0-9a-f]{2}'; }

# Writes standard input to the file $1, and into the log.
write() {
    cat >"$dir/$1"
    say "$dir/$1"
    sed 's/^/    /' "$dir/$1"
}

# The section [Link], with the lines $1… in it.
link() {
    [ -z "$mtu" ] || set -- "$@" "MTUBytes=$mtu"
    [ $# -eq 0 ] || printf '\n[Link]\n'
    for line in "$@"; do printf '%s\n' "$line"; done
}

# What an interface with addresses has.
addresses() {
    if [ -n "$address" ]; then
        link
        printf '\n[Network]\n'
        each Address "$address"
        each Gateway "$gateway"
    else
        # Pods and API server may speak IPv4 only: a router's IPv6 prefix alone is no network for a kubelet.
        link RequiredFamilyForOnline=ipv4
        printf '\n[Network]\nDHCP=yes\n'
    fi
    each DNS "$dns"
    each Domains "$search"
    each NTP "$ntp"
    # The firmware, the initrd and the system ask with the same identifier and so get the same address.
    if [ -z "$address" ]; then printf '\n[DHCPv4]\nClientIdentifier=mac\nUseHostname=no\nUseDomains=yes\nUseMTU=yes\n'; fi
}

# One assignment a line: the shell sees the failure of a line's last one only.
mac=$(value NETBOOT_MAC)
address=$(value NET_ADDRESS)
gateway=$(value NET_GATEWAY)
dns=$(value NET_DNS)
search=$(value NET_SEARCH)
ntp=$(value NET_NTP)
mtu=$(value NET_MTU)
bond=$(value NET_BOND)
mode=$(value NET_BOND_MODE)
vlan=$(value NET_VLAN)

asked=$address$gateway$dns$search$ntp$mtu$bond$mode$vlan
if [ -z "$asked" ] && [ -e "$dir/90-netboot.network" ]; then
    say "nothing else is asked for: the network stays as the initrd brought it up"
    for file in "$dir"/90-netboot*; do
        say "$file"
        sed 's/^/    /' "$file"
    done
    exit 0
fi

# Booted with a static address: there may be no DHCP.
if [ -z "$address" ] && grep -Eq '(^| )ip=[0-9]' "$cmdline"; then
    address=$(value NETBOOT_IP)/$(value NETBOOT_PREFIX)
    gateway=${gateway:-$(value NETBOOT_GATEWAY)}
    dns=${dns:-$(value NETBOOT_DNS)}
    ntp=${ntp:-$(value NETBOOT_NTP)}
fi
[ "$address" != dhcp ] || address=
mac=$(lower "$mac")
bond=$(lower "$bond")
[ -n "$mac" ] || die "NETBOOT_MAC is not set: which interface did this node boot from?"
is_mac "$mac" || die "NETBOOT_MAC='$mac' is not a MAC"
for one in $(printf '%s' "$address" | tr ',' ' '); do
    case $one in
        */*) ;;
        *) die "NET_ADDRESS=$one lacks the prefix: write $one/24" ;;
    esac
done
[ -z "$gateway" ] || [ -n "$address" ] || die "NET_GATEWAY without NET_ADDRESS: DHCP brings its own gateway"
for pair in "NET_MTU:$mtu:68:65535" "NET_VLAN:$vlan:1:4094"; do
    name=${pair%%:*} rest=${pair#*:}
    number=${rest%%:*} rest=${rest#*:}
    [ -n "$number" ] || continue
    case $number in *[!0-9]* | ??????*) die "$name=$number is not a number" ;; esac
    if [ "$number" -lt "${rest%%:*}" ] || [ "$number" -gt "${rest#*:}" ]; then
        die "$name=$number is not between ${rest%%:*} and ${rest#*:}"
    fi
done

mkdir -p "$dir"
rm -f "$dir"/10-netboot* "$dir"/90-netboot*
# The interface that carries the addresses, or the VLAN that does.
if [ -n "$bond" ]; then
    for member in $(printf '%s' "$bond" | tr ',' ' '); do
        is_mac "$member" || die "NET_BOND: '$member' is not a MAC"
    done
    case ,$bond, in
        *",$mac,"*) ;;
        *) die "NET_BOND=$bond lacks the interface that the node booted from, $mac" ;;
    esac
    say "bond0 (${mode:-802.3ad}) of $bond"
    # The booted interface's MAC, so that the bond gets the address that the node booted with.
    { printf '[NetDev]\nName=bond0\nKind=bond\nMACAddress=%s\n' "$mac"
      printf '\n[Bond]\nMode=%s\nMIIMonitorSec=100ms\n' "${mode:-802.3ad}"; } | write 10-netboot-bond.netdev
    # Members take the bond's MAC, hence the permanent one.
    { printf '[Match]\nPermanentMACAddress=%s\n' "$(printf '%s' "$bond" | tr ',' ' ')"
      link
      printf '\n[Network]\nBond=bond0\n'; } | write 10-netboot-member.network
    match='Name=bond0'
else
    # VLANs and bridges take their parent's MAC; only a device of no kind is hardware.
    match=$(printf 'MACAddress=%s\nType=ether\nKind=!*' "$mac")
fi
if [ -n "$vlan" ]; then
    say "VLAN $vlan"
    { printf '[NetDev]\nName=vlan%s\nKind=vlan\n\n[VLAN]\nId=%s\n' "$vlan" "$vlan"; } | write 10-netboot-vlan.netdev
    { printf '[Match]\n%s\n' "$match"
      link
      printf '\n[Network]\nVLAN=vlan%s\nLinkLocalAddressing=no\n' "$vlan"; } | write 10-netboot.network
    match="Name=vlan$vlan"
    carrier=10-netboot-vlan.network
else
    carrier=10-netboot.network
fi
say "${address:-DHCP} on ${match%%
*}"
{ printf '[Match]\n%s\n' "$match"; addresses; } | write "$carrier"
