#!/bin/bash
# What frr-supervisor replaces: a start-up script that sets the node up with ip(8) and hands over to watchfrr, as the
# FRR image's docker-start does. The baseline of `make bench`; NODE_IP, ASN_LOCAL and FE_MACS as there.
set -eu
vrf=metallb table=88 ns=perouter frr=fda1:b2c3:d4e5:1::0 metallb=fda1:b2c3:d4e5:1::1

ports=
IFS=, read -ra macs <<<"$FE_MACS"
for mac in "${macs[@]}"; do
    ports="$ports $(ip -o link | awk -v mac="$mac" 'tolower($0) ~ mac { sub(/@.*/, "", $2); sub(/:$/, "", $2); print $2; exit }')"
done
read -r first _ <<<"$ports"
mtu=$(ip -o link show "$first" | sed 's/.* mtu \([0-9]*\).*/\1/')

ip netns add $ns
in="ip netns exec $ns"
for key in net.ipv4.ip_forward net.ipv6.conf.all.forwarding; do $in sysctl -qw $key=1; done
ip -n $ns link set lo up
if [ -n "${LAB_PLAIN:-}" ]; then ip -n $ns link add $vrf type bridge; else ip -n $ns link add $vrf type vrf table $table; fi
ip -n $ns link set $vrf up
ip link add metallb-frr mtu "$mtu" type veth peer name frr-metallb mtu "$mtu" netns $ns
[ -n "${LAB_PLAIN:-}" ] || ip -n $ns link set frr-metallb master $vrf
ip -n $ns addr add $frr/127 dev frr-metallb nodad
ip -n $ns addr add 169.254.88.0/31 dev frr-metallb
ip -n $ns link set frr-metallb up
ip addr add $metallb/127 dev metallb-frr nodad
ip addr add 169.254.88.1/31 dev metallb-frr
ip link set metallb-frr up
ip route add default via 169.254.88.0
ip -6 route add default via $frr
for port in $ports; do
    ip link set "$port" netns $ns
    ip -n $ns link set "$port" up
done

# The same configuration as with frr-supervisor, from its template.
"/host${LAB_SUPERVISOR:?}" render >/etc/frr/frr.conf.in
# With frr-supervisor, the supervisor adds the BFD peers.
sed -i 's/^ neighbor fabric timers [0-9].*/ neighbor fabric bfd profile fabric\n&/' /etc/frr/frr.conf.in
n=0
for port in $ports; do
    sed -i "s/fabric$n\b/$port/" /etc/frr/frr.conf.in
    n=$((n + 1))
done
mv /etc/frr/frr.conf.in /etc/frr/frr.conf
echo "service integrated-vtysh-config" >/etc/frr/vtysh.conf
cat >/etc/frr/daemons <<'EOF'
zebra=yes
bgpd=yes
bfdd=yes
staticd=yes
mgmtd=yes
vtysh_enable=yes
zebra_options="  -A 127.0.0.1 -s 90000000 -K 60"
bgpd_options="   -A 127.0.0.1"
staticd_options="-A 127.0.0.1"
bfdd_options="   -A 127.0.0.1"
mgmtd_options="  -A 127.0.0.1"
EOF
chown -R frr:frr /etc/frr
# As FRR's packages do; with frr-supervisor it belongs to root.
install -d -o frr -g frr /run/frr

# docker-start, in the namespace.
exec $in bash -c '. /usr/lib/frr/frrcommon.sh && exec /usr/lib/frr/watchfrr $(daemon_list)'
