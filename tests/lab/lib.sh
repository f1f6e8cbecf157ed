# Shared by the lab's scripts: where the cache is, and how Debian packages of any suite get into it.
# shellcheck shell=sh

lab_cache=${LAB_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/frr-supervisor-lab}

say() { printf 'lab: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

# The packages' signatures are always checked. A mirror that is frozen or behind has a Release file of a moving suite that is past
# its date. Only that is accepted, with a message, since a test tree is neither kept nor served.
debian_fetch() { # DIR VARIANT SUITE PACKAGES
    debian_dir=$1 debian_log=$1.log
    set -- --variant="$2" --include="$4" --components=main "$3" "$1" ${LAB_MIRROR:+"$LAB_MIRROR"}
    mmdebstrap "$@" >"$debian_log" 2>&1 && return
    if grep -q 'Release file.* is expired' "$debian_log"; then
        rm -rf --one-file-system "$debian_dir"
        say "the mirror's Release file is out of date: using it nevertheless (its signature is good)"
        mmdebstrap --aptopt='Acquire::Check-Valid-Until "false"' "$@" >"$debian_log" 2>&1 && return
    fi
    cat "$debian_log" >&2
    return 1
}

# Prints the cache directory NAME; when it is not there, makes it by running COMMAND… with the path of a temporary directory
# added, which is renamed when the command has succeeded: an entry of the cache is always complete, also after a kill.
cached() { # NAME COMMAND…
    cached_name=$1 cached_dir=$lab_cache/$1
    shift
    if [ ! -d "$cached_dir" ]; then
        mkdir -p "$lab_cache"
        # Not followed by ||, under which set -e would not hold within.
        (
            flock 9
            [ -d "$cached_dir" ] && exit # another process made it meanwhile
            trap '[ $? = 0 ] || say "could not make $cached_name"' EXIT
            rm -rf --one-file-system "$cached_dir".new "$cached_dir".new.log
            say "making $cached_name (once)"
            "$@" "$cached_dir".new
            mv "$cached_dir".new "$cached_dir"
            rm -f "$cached_dir".new.log
        ) 9>"$lab_cache/$cached_name.lock"
    fi
    printf '%s\n' "$cached_dir"
}

# A short key for what a cache entry is made from.
key() { printf '%s' "$*" | sha256sum | cut -c1-8; }
