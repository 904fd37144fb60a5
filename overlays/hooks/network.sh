#!/bin/sh
# network.sh: the node's network, as files for systemd-networkd. A hook of the stage pre-init.
#
# Without any variable the network stays as the initrd brought it up (DHCP, ip=, vlan=, bond=) and described it for
# systemd-networkd: 90-netboot.network and so on. With some, only what they name changes:
#
#   NET_DNS        name servers, before those that DHCP names
#   NET_SEARCH     domains to search
#   NET_NTP        time servers
#   NET_MTU        MTU of the interface, of the bond and of the VLAN
#     are drop-ins beside the initrd's files; the link stays up
#   NET_ADDRESS    static addresses with their prefix: 192.0.2.7/24; or dhcp
#   NET_GATEWAY    default gateways
#     replace 90-netboot.network, over the same links, which stay up
#   NET_BOND       MACs of the interfaces to bond, the booted one among them
#   NET_BOND_MODE  802.3ad (default), active-backup, balance-xor…
#   NET_VLAN       VLAN id, 1 to 4094: addresses go on the VLAN
#     replace all of the initrd's files, at which the initrd switches the links off; addresses and VLAN are those of the
#     boot where no variable says otherwise
#
# Several values are separated by commas or blanks. They come from the node's configuration, as environment; what is not
# there is looked for on the kernel's command line, so that `NET_VLAN=12` in a node's boot script does it too.
#
# Where the initrd described nothing (netboot.handover=down), the interface that the node booted from is described here.
# It is known by its MAC (NETBOOT_MAC), never by a name, which the kernel and udev give differently.
#
# Everything goes to $NET_DIR (/run/systemd/network): it is gone with the boot that it was made for. Nothing is touched
# before all is known to fit together.
set -eu

dir=${NET_DIR:-/run/systemd/network}
cmdline=${NET_CMDLINE:-/proc/cmdline}
sys=${NET_SYS:-/sys/class/net}
top=$dir/90-netboot.network
parent=$dir/90-netboot-parent.network

say() { echo "network.sh: $*"; }
die() {
    echo "network.sh: error: $*" >&2
    exit 1
}

# The words of the kernel's command line, one a line.
words() { tr ' ' '\n' <"$cmdline"; }
all_words=
[ ! -r "$cmdline" ] || IFS= read -r all_words <"$cmdline" || true

# Puts into $1 the value of $2 in the environment, else on the command line; several are separated by one blank each. Values
# are data: nothing of them is ever evaluated. No program is started, since most nodes ask for nothing, and every program
# comes out of the compressed root first.
take() {
    eval "found=\${$2:-}"
    if [ -z "$found" ]; then
        set -f
        for word in $all_words; do
            case $word in "$2"=*) found=${word#*=} ;; esac
        done
        set +f
    fi
    case $found in
        *[!0-9A-Za-z.:/,\ _-]*) die "$2='$found' has characters that no such value has" ;;
    esac
    values=
    IFS=', '
    for one in $found; do
        [ -z "$one" ] || values=${values:+$values }$one
    done
    unset IFS
    eval "$1=\$values"
}

# What the file $2 of the initrd says after `$1=`, separated by blanks; nothing if there is no such file.
said() { if [ -f "$2" ]; then sed -n "s/^$1=//p" "$2" | tr '\n' ' ' | sed 's/ $//'; fi; }
# The lines of the section [Match] of the file $1.
matched() { sed -n '/^\[Match\]$/,/^\[/{/^\[/!p}' "$1" | grep .; }

# One line `KEY=value` for each of the values $2.
each() { printf '%s\n' "$2" | tr ' ' '\n' | sed -n "s|^..*|$1=&|p"; }
# The same, in place of what the file that this is for has.
instead() { if [ -n "$2" ]; then printf '%s=\n' "$1" && each "$1" "$2"; fi; }

# MACs as networkd writes them.
lower() { printf '%s' "$1" | tr 'A-F-' 'a-f:'; }
is() { printf '%s\n' "$2" | grep -Eiqx "$1"; }
is_mac() { is '([0-9a-f]{2}:){5}[0-9a-f]{2}' "$1"; }
octet='(25[0-5]|2[0-4][0-9]|1?[0-9]?[0-9])'
is_ipv4() { is "($octet\.){3}$octet" "$1"; }
# So far as a pattern tells: how many groups stand around `::` is not counted.
group='[0-9a-f]{1,4}'
is_ipv6() { is "($group:){7}$group|($group(:$group){0,6})?::($group(:$group){0,6})?" "$1"; }
is_address() { is_ipv4 "$1" || is_ipv6 "$1"; }
# Dies unless $2 is a number from $3 to $4; $1 is what to call it.
check_number() {
    case $2 in '' | *[!0-9]* | 0?* | ??????*) die "$1=$2 is not a number" ;; esac
    if [ "$2" -lt "$3" ] || [ "$2" -gt "$4" ]; then die "$1=$2 is not between $3 and $4"; fi
}

# Writes standard input to the file $1, and into the log.
write() {
    mkdir -p "$(dirname "$1")"
    cat >"$1"
    show "$1"
}
show() {
    say "$1"
    while IFS= read -r line || [ -n "$line" ]; do printf '    %s\n' "$line"; done <"$1"
}

# The section [Link], with the lines $1… in it.
link() {
    [ -z "$mtu" ] || set -- "$@" "MTUBytes=$mtu"
    [ $# -eq 0 ] || printf '\n[Link]\n'
    for line in "$@"; do printf '%s\n' "$line"; done
}

# The MTU of what is below the VLAN that the node booted over: at once, since a VLAN's cannot be larger, and networkd sets
# those of links that are there in no order.
below() {
    [ -n "$mtu" ] && [ -f "$parent" ] || return 0
    link | write "$parent.d/network.sh.conf"
    interface='' && take interface NETBOOT_IFACE
    for lower in "$sys/$interface"/lower_*; do
        [ -e "$lower/mtu" ] || continue
        echo "$mtu" >"$lower/mtu" || say "warning: ${lower##*/lower_} does not take the MTU $mtu"
    done
}

# What an interface with addresses has.
addresses() {
    if [ -n "$address" ]; then
        link
        printf '\n[Network]\n'
        each Address "$address"
    else
        # Pods and API server may speak one family only: an address of the other is no network for a kubelet.
        link "RequiredFamilyForOnline=$family"
        # Kept also when the server is away for longer than a lease: a node that lost its address would lose its pods.
        printf '\n[Network]\nDHCP=%s\nKeepConfiguration=dhcp\n' "$dhcp"
        [ "$family" = ipv4 ] || printf 'IPv6AcceptRA=yes\n'
    fi
    each DNS "$dns"
    each Domains "$search"
    each NTP "$ntp"
    # On the link, whatever the prefix says: some networks hand out single addresses.
    for one in ${address:+$gateway}; do printf '\n[Route]\nGateway=%s\nGatewayOnLink=yes\n' "$one"; done
    # The firmware, the initrd and the system ask with the same identifiers and so get the same addresses.
    if [ -z "$address" ]; then
        printf '\n[DHCPv4]\nClientIdentifier=mac\nUseHostname=no\nUseDomains=yes\nUseMTU=yes\n'
        printf '\n[DHCPv6]\nDUIDType=link-layer\nIAID=%d\nUseHostname=no\n' "0x$(printf '%s' "${mac#*:*:}" | tr -d :)"
        printf '\n[IPv6AcceptRA]\nUseDomains=yes\n'
    fi
}

take mac NETBOOT_MAC
take address NET_ADDRESS
take gateway NET_GATEWAY
take dns NET_DNS
take search NET_SEARCH
take ntp NET_NTP
take mtu NET_MTU
take bond NET_BOND
take mode NET_BOND_MODE
take vlan NET_VLAN

if [ -z "$address$gateway$dns$search$ntp$mtu$bond$mode$vlan" ] && [ -f "$top" ]; then
    say "nothing else is asked for: the network stays as the initrd brought it up"
    for file in "$dir"/90-netboot*; do
        [ ! -f "$file" ] || show "$file"
    done
    exit 0
fi

# With its root inside, a node can boot without any.
if [ -z "$mac$address$gateway$dns$search$ntp$mtu$bond$mode$vlan" ]; then
    say "the node booted over no network, and none is asked for"
    exit 0
fi

# Is each value by itself one?
mac=$(lower "$mac")
bond=$(lower "$bond")
[ -n "$mac" ] || die "NETBOOT_MAC is not set: which interface did this node boot from?"
is_mac "$mac" || die "NETBOOT_MAC='$mac' is not a MAC"
if [ "$address" != dhcp ]; then
    for one in $address; do
        case $one in
            */*) ;;
            *) die "NET_ADDRESS=$one lacks the prefix: write $one/$(is_ipv6 "$one" && echo 64 || echo 24)" ;;
        esac
        if is_ipv4 "${one%/*}"; then
            check_number "NET_ADDRESS=$one: prefix" "${one##*/}" 1 32
        elif is_ipv6 "${one%/*}"; then
            check_number "NET_ADDRESS=$one: prefix" "${one##*/}" 1 128
        else
            die "NET_ADDRESS=$one is neither an address with its prefix nor dhcp"
        fi
    done
fi
for one in $gateway; do is_address "$one" || die "NET_GATEWAY=$one is not an address"; done
for one in $dns; do is_address "$one" || die "NET_DNS=$one is not an address"; done
[ -z "$mtu" ] || check_number NET_MTU "$mtu" 68 65535
[ -z "$vlan" ] || check_number NET_VLAN "$vlan" 1 4094
for member in $bond; do is_mac "$member" || die "NET_BOND: '$member' is not a MAC"; done
case " $bond " in
    '  ' | *" $mac "*) ;;
    *) die "NET_BOND=$bond lacks the interface that the node booted from, $mac" ;;
esac
case $mode in
    '' | 802.3ad | active-backup | balance-alb | balance-rr | balance-tlb | balance-xor | broadcast) ;;
    *) die "NET_BOND_MODE=$mode is no mode of bonds: 802.3ad, active-backup, balance-alb, balance-rr, balance-tlb," \
        "balance-xor, broadcast" ;;
esac
[ -z "$mode" ] || [ -n "$bond" ] || die "NET_BOND_MODE=$mode without NET_BOND: of which interfaces?"

# What the node booted with.
take booted_ip NETBOOT_IP
case $booted_ip in *:*) family=ipv6 ;; *) family=ipv4 ;; esac
dhcp=yes booted_mtu=
if [ -f "$top" ]; then
    booted_address=$(said Address "$top")
    booted_gateway=$(said Gateway "$top")
    booted_dns=$(said DNS "$top")
    booted_ntp=$(said NTP "$top")
    booted_mtu=$(said MTUBytes "$top")
    [ -n "$booted_address" ] || dhcp=$(said DHCP "$top")
    dhcp=${dhcp:-yes}
    booted_vlan=$(said Id "$dir/90-netboot-vlan.netdev")
    booted_bond=$(said Name "$dir/90-netboot-bond.netdev")
elif words | grep -q '^ip=[0-9[]'; then
    # Static: there may be no DHCP.
    prefix='' && take prefix NETBOOT_PREFIX
    booted_address=$booted_ip/$prefix
    take booted_gateway NETBOOT_GATEWAY
    take booted_dns NETBOOT_DNS
    take booted_ntp NETBOOT_NTP
else
    booted_address='' booted_gateway='' booted_dns='' booted_ntp=''
fi
if [ ! -f "$top" ]; then
    # The id is at the end of the name: vlan12, eth0.12.
    booted_vlan=$(words | sed -En 's/^vlan=([^:]*[^0-9:])?0*([0-9]+)(:.*)?$/\2/p' | tail -n 1)
    booted_bond=$(words | sed -n 's/^bond=\([^:]*\).*/\1/p' | tail -n 1)
fi

# Does it fit together?
if [ -z "$bond" ] && [ -n "$booted_bond" ]; then
    [ -z "$vlan" ] || die "NET_VLAN=$vlan would take down $booted_bond, which the node booted over: name its members with" \
        "NET_BOND, or boot with vlan= over it"
    [ -f "$top" ] || die "netboot.handover=down leaves no description of $booted_bond, which the node booted over: name its" \
        "members with NET_BOND"
fi
if [ -z "$address" ]; then
    [ -z "$gateway" ] || [ -n "$booted_address" ] || die "NET_GATEWAY without NET_ADDRESS: DHCP brings its own gateway"
    if [ -n "$vlan" ] && [ "$vlan" != "$booted_vlan" ] && [ -n "$booted_address" ]; then
        die "NET_VLAN=$vlan without NET_ADDRESS: the node booted with the static address $booted_address, of another network"
    fi
    if [ ! -f "$top" ] && [ -n "$booted_address" ]; then
        [ -n "$booted_ip" ] || die "ip= on the kernel's command line has an address, but NETBOOT_IP is empty: name it with" \
            "NET_ADDRESS"
        if words | grep -q '^ip=[0-9]' && words | grep -q '^ip=\['; then
            die "netboot.handover=down leaves no description of two static addresses: name both with NET_ADDRESS"
        fi
    fi
elif [ "$address" = dhcp ]; then
    [ -z "$gateway" ] || die "NET_GATEWAY with NET_ADDRESS=dhcp: DHCP brings its own gateway"
fi

# Small changes: drop-ins, which a site's own ones in /etc/systemd/network win over.
if [ -f "$top" ] && [ -z "$address$gateway$bond$vlan" ]; then
    more=$(instead DNS "$dns" && instead Domains "$search" && instead NTP "$ntp")
    { link
      [ -z "$more" ] || printf '\n[Network]\n%s\n' "$more"; } | write "$top.d/network.sh.conf"
    below
    exit 0
fi

# What nobody asks for is as it was at boot.
if [ -z "$address" ]; then
    address=$booted_address
    gateway=${gateway:-$booted_gateway}
    dns=${dns:-$booted_dns}
    ntp=${ntp:-$booted_ntp}
elif [ "$address" = dhcp ]; then
    address=''
    dhcp=yes
fi

# Other addresses on the same links.
if [ -f "$top" ] && [ -z "$bond$vlan" ]; then
    match=$(matched "$top") || die "$top says of no link what it matches: is it a site's own? Then change that one"
    below
    mtu=${mtu:-$booted_mtu}
    say "${address:-DHCP} over the links that the node booted over"
    { printf '[Match]\n%s\n' "$match"
      addresses; } | write "$top"
    exit 0
fi

# Other links.
mtu=${mtu:-$booted_mtu}
vlan=${vlan:-$booted_vlan}
rm -rf "$dir"/10-netboot* "$dir"/90-netboot*
# The interface that carries the addresses, or the VLAN that does.
if [ -n "$bond" ]; then
    say "bond0 (${mode:-802.3ad}) of $bond"
    # The booted interface's MAC, so that the bond gets the address that the node booted with.
    { printf '[NetDev]\nName=bond0\nKind=bond\nMACAddress=%s\n' "$mac"
      printf '\n[Bond]\nMode=%s\nMIIMonitorSec=100ms\n' "${mode:-802.3ad}"; } | write "$dir/10-netboot-bond.netdev"
    # Members take the bond's MAC, hence the permanent one.
    { printf '[Match]\nPermanentMACAddress=%s\n' "$bond"
      link
      printf '\n[Network]\nBond=bond0\n'; } | write "$dir/10-netboot-member.network"
    match='Name=bond0'
else
    # VLANs and bridges take their parent's MAC; only a device of no kind is hardware.
    match=$(printf 'MACAddress=%s\nType=ether\nKind=!*' "$mac")
fi
if [ -n "$vlan" ]; then
    say "VLAN $vlan"
    { printf '[NetDev]\nName=vlan%s\nKind=vlan\n\n[VLAN]\nId=%s\n' "$vlan" "$vlan"; } | write "$dir/10-netboot-vlan.netdev"
    { printf '[Match]\n%s\n' "$match"
      link
      printf '\n[Network]\nVLAN=vlan%s\nLinkLocalAddressing=no\n' "$vlan"; } | write "$dir/10-netboot.network"
    match="Name=vlan$vlan"
    carrier=10-netboot-vlan.network
else
    carrier=10-netboot.network
fi
say "${address:-DHCP} on ${match%%
*}"
{ printf '[Match]\n%s\n' "$match"
  addresses; } | write "$dir/$carrier"
