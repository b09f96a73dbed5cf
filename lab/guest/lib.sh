# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# Building blocks for commands that run in the lab: `. "$LAB/guest/lib.sh"`. Each waits for its condition, with a
# limit; none sleeps for a fixed time. $LAB_HOST is A or B; $LAB_SHARE is the directory both hosts see.

# wait_for SECONDS 'CONDITION': until the condition holds, else says which did not and ends with 97.
wait_for() {
  local end=$((SECONDS + $1))
  until eval "$2" >/dev/null 2>&1; do
    [ $SECONDS -lt $end ] || { echo "lab: gave up after $1 s waiting for: $2" >&2; exit 97; }
    sleep 0.05
  done
}

# here NAME / there NAME [SECONDS]: tell the other host that NAME has happened here; wait until it has there.
here() { : > "$LAB_SHARE/at-$LAB_HOST-$1"; }
there() {
  local other=A; [ "$LAB_HOST" = A ] && other=B
  wait_for "${2:-120}" "[ -e $LAB_SHARE/at-$other-$1 ]"
}

# siw MODULE-VARIANT (stock | map): load soft-iWARP.
siw() {
  modprobe -a libcrc32c crc32c_generic ib_uverbs rdma_ucm iw_cm && insmod "$LAB_KIT/siw-$1.ko"
}

# link DEVICE TYPE NETDEV ADDRESS/LEN: an RDMA device of type rxe or siw on a (dummy) netdev with that address.
link() {
  ip link show "$3" >/dev/null 2>&1 || { modprobe dummy; ip link add "$3" type dummy; }
  ip address add "$4" dev "$3" nodad 2>/dev/null || ip address add "$4" dev "$3"
  ip link set "$3" up
  [ "$2" = rxe ] && modprobe rdma_rxe
  rdma link add "$1" type "$2" netdev "$3"
  wait_for 10 "rdma link show $1/1 | grep -q 'state ACTIVE'"
}

# two_stacks: host A is 10.9.0.1, B is 10.9.0.2. eth0 carries the host's own stack and the port mapper; eth1, in
# namespace rnic with the same address, stands for the offloading adapter's own TCP stack. siw0 is on eth1.
two_stacks() {
  local i=1; [ "$LAB_HOST" = A ] || i=2
  modprobe virtio_net
  wait_for 10 'ip link show eth1'
  ip address add 10.9.0.$i/24 dev eth0; ip link set eth0 up
  ip netns add rnic; ip link set eth1 netns rnic
  ip -n rnic address add 10.9.0.$i/24 dev eth1; ip -n rnic link set eth1 up; ip -n rnic link set lo up
  ip netns exec rnic rdma link add siw0 type siw netdev eth1
}

# target NAME ADDRESS:PORT [iser|tcp] [MEBIBYTES]: a LIO target with one file-backed LUN and one portal, open to all.
# A second call with the same NAME adds a portal.
target() {
  local t=/sys/kernel/config/target name=$1 portal=$2 kind=${3:-tcp} size=$(( ${4:-64} * 1048576 ))
  [ -d "$t/iscsi" ] || modprobe -a crc32c_generic libcrc32c target_core_mod target_core_file iscsi_target_mod sd_mod
  [ "$kind" != iser ] || [ -d /sys/module/ib_isert ] || modprobe -a rdma_ucm ib_isert
  [ -d "$t" ] || mount -t configfs none /sys/kernel/config
  local group=$t/iscsi/$name/tpgt_1 disk; disk=$(echo "$name" | tr -c 'a-zA-Z0-9\n' _)
  if [ ! -d "$group" ]; then
    mkdir -p "$t/core/fileio_0/$disk"; truncate -s $size "/tmp/$disk.img"
    echo "fd_dev_name=/tmp/$disk.img,fd_dev_size=$size" > "$t/core/fileio_0/$disk/control"
    echo 1 > "$t/core/fileio_0/$disk/enable"
    mkdir -p "$group/lun/lun_0"; ln -s "$t/core/fileio_0/$disk" "$group/lun/lun_0/$disk"
    local a
    for a in authentication=0 demo_mode_write_protect=0 generate_node_acls=1 cache_dynamic_acls=1; do
      echo ${a#*=} > "$group/attrib/${a%=*}"
    done
    echo 1 > "$group/enable"
  fi
  mkdir "$group/np/$portal"
  if [ "$kind" = iser ]; then echo 1 > "$group/np/$portal/iser"; fi
}
