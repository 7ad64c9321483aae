#!/bin/sh
# Sets up a 64-bit Raspberry Pi OS (12 "Bookworm" or newer) to run edge-lab bundles, without PyTorch: the runner, its
# libraries (12 MB) and the Python client go to /opt/edge-lab. With --listen also a recognizer that starts with the board.
#
#   make runner-aarch64                                    # on the laptop: writes rpi/runner/build-aarch64/dist
#   scp -r rpi/runner/build-aarch64/dist pi@raspberrypi.local:edge-lab-dist
#   ssh pi@raspberrypi.local sudo edge-lab-dist/install.sh --packages
#
# Everything is checked and copied beside its place first; renames at the end put it in use. Run it again to upgrade.
set -eu

usage() {
  cat <<'END'
usage: install.sh [options]

  --packages        also install what the system lacks, by apt: libjpeg, libpng; alsa-utils with --listen
  --listen BUNDLE   also install this keyword bundle and a service that listens to the microphone with it
  --from FOLDER     take bin/, lib/ and python/ from here (default: beside this script, or what make runner-aarch64 built)
  --prefix FOLDER   install here (default: /opt/edge-lab)
  --dry-run         check everything, say what would be done, and change nothing
  --uninstall       remove what was installed: program, service, its user, its bundle
  --help

DESTDIR=FOLDER stages into a folder instead of the system: no user is made, no service is started.
exit codes: 0 good, 2 wrong usage or an error
END
}

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
prefix=/opt/edge-lab from='' bundle='' packages=no dry=no remove=no
root=${DESTDIR:-}
state=/var/lib/edge-lab
unit=/etc/systemd/system/edge-lab-listen.service
settings=/etc/default/edge-lab-listen
command=/usr/local/bin/edge-lab-runner
account=edge-lab

fail() { # what, why, fix
  printf 'install.sh: %s\n  why: %s\n  fix: %s\n' "$1" "$2" "$3" >&2
  exit 2
}

say() { printf '%s\n' "$*"; }

# Runs a command, or shows it with --dry-run.
act() {
  if [ "$dry" = yes ]; then say "would run: $*"; else "$@"; fi
}

read_arguments() {
  while [ $# -gt 0 ]; do
    case $1 in
      --packages) packages=yes ;;
      --dry-run) dry=yes ;;
      --uninstall) remove=yes ;;
      --help | -h) usage; exit 0 ;;
      --listen | --from | --prefix)
        [ $# -gt 1 ] || fail "$1 needs a folder." "none follows." "install.sh --help shows the options."
        case $1 in --listen) bundle=$2 ;; --from) from=$2 ;; --prefix) prefix=${2%/} ;; esac
        shift ;;
      *) fail "there is no option $1." "it is misspelt, or of another version." "install.sh --help shows the options." ;;
    esac
    shift
  done
  case $prefix in
    *[!A-Za-z0-9._/+-]* | [!/]* | '')
      fail "--prefix '$prefix' can't be used." "an absolute path below / is needed, of letters, digits and . _ + -" \
        "for example --prefix /opt/edge-lab" ;;
  esac
}

needs_root() { # how to get it
  [ -n "$root" ] || [ "$dry" = yes ] || [ "$(id -u)" = 0 ] ||
    fail "this needs root." "it writes to $prefix and to /etc." "$1"
}

find_source() {
  for one in "$from" "$here" "$here/runner/build-aarch64/dist"; do
    if [ -n "$one" ] && [ -x "$one/bin/edge-lab-runner" ] && [ -d "$one/lib" ]; then
      from=$one
      return
    fi
    [ -z "$from" ] || break
  done
  fail "there is no runner in ${from:-$here}." "bin/edge-lab-runner and lib/ are missing." \
    "make arm-tools runner-aarch64 on the laptop, and copy rpi/runner/build-aarch64/dist here."
}

# What the runner was built for stands in bytes 18 and 19 of the file.
check_processor() {
  case $(od -An -tx1 -j18 -N2 "$from/bin/edge-lab-runner" | tr -d ' \n') in
    b700) made_for=aarch64 ;;
    3e00) made_for=x86_64 ;;
    *) made_for=unknown ;;
  esac
  machine=$(uname -m)
  case $machine in
    armv*) cure="write a card with the 64-bit Raspberry Pi OS (Pi 3, 4, 5, Zero 2)." ;;
    *) cure="build it for this machine." ;;
  esac
  [ "$made_for" = "$machine" ] || fail "this runner does not fit this machine." \
    "it is made for $made_for processors, this machine has $machine." "$cure"
  [ "$(getconf LONG_BIT)" = 64 ] || fail "this system is 32-bit on a 64-bit kernel." \
    "the runner and its libraries are 64-bit." "write a card with the 64-bit Raspberry Pi OS."
}

check_system() {
  version=$(getconf GNU_LIBC_VERSION 2> /dev/null | sed -n 's/^glibc //p')
  [ -n "$version" ] || fail "this system has no GNU C library." "the runner is linked against it." "use Raspberry Pi OS."
  major=${version%%.*} minor=${version#*.}
  if [ "$major" -lt 2 ] || { [ "$major" -eq 2 ] && [ "${minor%%.*}" -lt 34 ]; }; then
    fail "this system is too old." "its C library is $version, 2.34 is needed." "use Raspberry Pi OS 12 (Bookworm) or newer."
  fi
  needs_root "sudo $0 ..., or look first: $0 --dry-run"
}

check_bundle() {
  [ -n "$bundle" ] || return 0
  [ -f "$bundle/bundle.json" ] || fail "no bundle at $bundle." "bundle.json is missing." \
    "copy one here: scp -r artifacts/MODEL/xnnpack-fp32 pi@raspberrypi.local:words"
  grep -q '"task": *"keyword"' "$bundle/bundle.json" || fail "$bundle does not recognize words." \
    "its task is not 'keyword'." "choose a bundle of a speech model."
}

check_space() {
  at=$root$prefix
  while [ ! -d "$at" ]; do at=$(dirname "$at"); done
  need=$(du -sk "$from/bin" "$from/lib" ${bundle:+"$bundle"} | awk '{ sum += $1 } END { print sum + 4096 }')
  free=$(df -Pk "$at" | awk 'NR == 2 { print $4 }')
  [ "$free" -ge "$need" ] || fail "there is not enough space for $prefix." "$need kB are needed, $free kB are free." \
    "free some space, or choose another disk with --prefix."
}

# The runner is started where it lies: a library that is missing shows here, before anything is installed.
check_libraries() {
  if said=$("$from/bin/edge-lab-runner" --version 2>&1); then
    missing=''
  else
    missing=$said
  fi
  [ -z "$bundle" ] || command -v arecord > /dev/null || missing="${missing:-arecord: not found}"
  [ -n "$missing" ] || return 0
  if [ "$packages" = yes ] && [ -z "$root" ]; then
    command -v apt-get > /dev/null || fail "there is no apt-get here." "--packages uses it." \
      "install libjpeg and libpng yourself."
    act apt-get update -q
    act apt-get install -q -y --no-install-recommends libjpeg62-turbo libpng16-16 ${bundle:+alsa-utils}
    [ "$dry" = no ] || return 0
    "$from/bin/edge-lab-runner" --version > /dev/null && return 0
  fi
  fail "the runner does not start here." "$(printf '%s' "$missing" | tail -n 1)" \
    "install.sh --packages, or: sudo apt install libjpeg62-turbo libpng16-16${bundle:+ alsa-utils}"
}

staged="$root$prefix.new $root$state/listen.new"
clean() {
  for one in $staged; do rm -rf "$one"; done
}

stage() {
  if [ "$dry" = yes ]; then
    say "would copy: $from/{bin,lib,python} to $prefix"
    [ -z "$bundle" ] || say "would copy: $bundle to $state/listen"
    return
  fi
  trap clean EXIT
  trap 'exit 130' INT TERM HUP
  clean
  mkdir -p "$root$prefix.new"
  cp -R "$from/bin" "$from/lib" "$root$prefix.new/"
  [ ! -d "$from/python" ] || cp -R "$from/python" "$root$prefix.new/"
  mkdir -p "$root$prefix.new/python"
  rm -rf "$root$prefix.new/python/lib"
  ln -s ../lib "$root$prefix.new/python/lib" # where edge_lab_runner.py looks
  if [ -f "$here/edge-lab-listen" ]; then
    cp "$here/edge-lab-listen" "$root$prefix.new/bin/"
    chmod 755 "$root$prefix.new/bin/edge-lab-listen"
  fi
  chmod -R go=rX "$root$prefix.new"
  "$root$prefix.new/bin/edge-lab-runner" --version > /dev/null # from its new place
  if [ -n "$bundle" ]; then
    mkdir -p "$root$state"
    cp -R "$bundle" "$root$state/listen.new"
    chmod -R go=rX "$root$state/listen.new"
    "$root$prefix.new/bin/edge-lab-runner" check "$root$state/listen.new" || fail "the bundle does not work here." \
      "its check fails, see above." "export it again, with this version of edge-lab."
  fi
}

# $1.new becomes $1; an older $1 goes.
swap() {
  if [ "$dry" = yes ]; then return; fi
  rm -rf "$1.old"
  [ ! -e "$1" ] || mv "$1" "$1.old"
  mv "$1.new" "$1"
  rm -rf "$1.old"
}

put_in_use() {
  if [ -z "$root" ] && [ -n "$bundle" ] && ! id "$account" > /dev/null 2>&1; then
    act useradd --system --no-create-home --home-dir "$state" --shell /usr/sbin/nologin --groups audio "$account"
  fi
  [ -z "$bundle" ] || swap "$root$state/listen"
  swap "$root$prefix"
  act mkdir -p "$root$(dirname "$command")"
  act ln -sfn "$prefix/bin/edge-lab-runner" "$root$command"
}

add_service() {
  if [ -z "$bundle" ]; then # an upgrade: the service that is there must not go on with files that are gone
    [ -n "$root" ] || [ ! -d /run/systemd/system ] || [ ! -e "$unit" ] || act systemctl try-restart edge-lab-listen.service
    return 0
  fi
  if [ "$dry" = yes ]; then
    say "would write: $unit, and $settings unless it is there"
  else
    mkdir -p "$root$(dirname "$unit")" "$root$(dirname "$settings")"
    sed "s|/opt/edge-lab|$prefix|g" "$here/edge-lab-listen.service" > "$root$unit.new"
    mv "$root$unit.new" "$root$unit"
    if [ ! -e "$root$settings" ]; then
      printf '%s\n' '# An ALSA device such as plughw:1,0 (arecord -l lists them); empty: the first that records.' \
        'EDGE_LAB_MICROPHONE=' > "$root$settings"
    fi
  fi
  if [ -n "$root" ] || [ ! -d /run/systemd/system ]; then
    say "the service is installed, not started: systemd does not run here."
    return
  fi
  act systemctl daemon-reload
  act systemctl enable edge-lab-listen.service
  act systemctl restart edge-lab-listen.service
}

uninstall() {
  if [ -z "$root" ] && [ -d /run/systemd/system ] && [ -e "$unit" ]; then
    act systemctl disable --now edge-lab-listen.service
  fi
  if [ "$(readlink "$root$command" 2> /dev/null || true)" = "$prefix/bin/edge-lab-runner" ]; then
    act rm -f "$root$command"
  fi
  if [ -e "$root$prefix" ] && [ ! -x "$root$prefix/bin/edge-lab-runner" ]; then
    fail "$prefix is not removed." "there is no runner in it: it is something else." "name the right one with --prefix."
  fi
  for one in "$root$unit" "$root$settings" "$root$state" "$root$prefix"; do
    [ ! -e "$one" ] || act rm -rf "$one"
  done
  if [ -z "$root" ] && id "$account" > /dev/null 2>&1; then act userdel "$account"; fi
  if [ -z "$root" ] && [ -d /run/systemd/system ]; then act systemctl daemon-reload; fi
  say "removed: $prefix"
}

read_arguments "$@"
if [ "$remove" = yes ]; then
  needs_root "sudo $0 --uninstall"
  uninstall
  exit 0
fi
find_source
check_processor
check_system
check_bundle
check_space
check_libraries
stage
put_in_use
add_service
if [ "$dry" = yes ]; then
  say "nothing was changed."
else
  say "installed: $prefix ($("$root$prefix/bin/edge-lab-runner" --version))"
  say "try it:    edge-lab-runner run BUNDLE PHOTO.jpg${bundle:+;  journalctl -fu edge-lab-listen}"
fi
