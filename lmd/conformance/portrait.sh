#!/bin/sh
# What a machine sees of its environment, into $JOBOUTPUTS/portrait: a line `KEY=TEXT` each, contents of files as hex.
# Keys that begin with `engine.` differ between engines by their nature. POSIX sh, od, stat, tr and the like only.
set -u
umask 022
PATH=${PATH:-/usr/sbin:/usr/bin:/sbin:/bin}
begun=$(date +%s) # before all else: how long a machine took to start is read from it

hex() { od -An -v -tx1 "$1" 2>/dev/null | tr -d ' \n'; }
put() { printf '%s=%s\n' "$1" "$2"; }

look() {
    put "place.$1" "$(stat -c '%F %a %u:%g' "$1" 2>/dev/null | sed 's/regular empty file/regular file/')"
}

try() {
    if (: >"$1/.lmc-probe") 2>/dev/null; then
        rm -f "$1/.lmc-probe"
        put "writable.$1" yes
    else
        put "writable.$1" no
    fi
}

features() {
    folder=$2
    for path in "$folder"/* "$folder"/.[!.]*; do
        [ -e "$path" ] || continue
        put "$1.${path##*/}" "$(hex "$path")"
        look "$path"
    done
    try "$folder"
    if (printf x >>"$folder/$3") 2>/dev/null; then put "changeable.$folder" yes; else put "changeable.$folder" no; fi
    if mv -f "$folder/$3" "$folder/lmc-moved" 2>/dev/null; then put "movable.$folder" yes; else put "movable.$folder" no; fi
}

patterns() {
    cat <<'END'
pattern.space=##user_data_space##
pattern.machinetype=##user_data_machinetype##
pattern.vmtype=##user_data_vmtype##
pattern.machine_hostname=##user_data_machine_hostname##
pattern.manager_hostname=##user_data_manager_hostname##
pattern.machinefeatures_url=##user_data_machinefeatures_url##
pattern.jobfeatures_url=##user_data_jobfeatures_url##
pattern.joboutputs_url=##user_data_joboutputs_url##
pattern.uuid=##user_data_uuid##
pattern.option_greeting=##user_data_option_greeting##
pattern.file_letter=##user_data_file_letter##
pattern.nobody_knows=##user_data_nobody_knows##
END
}

portrait() {
    number=0
    put arguments $#
    for argument; do
        number=$((number + 1))
        put "argument.$number" "$(printf %s "$argument" | od -An -v -tx1 | tr -d ' \n')"
    done
    patterns
    put environ "$(hex /proc/$$/environ)"
    put hostname "$(uname -n)"
    put clock "$begun"
    put user "$(id -u):$(id -g)"
    put engine.pid $$
    put engine.uid_map "$(hex /proc/self/uid_map)"
    put engine.mounts "$(hex /proc/self/mountinfo)"
    features machinefeatures "${MACHINEFEATURES#file://}" total_cpu
    features jobfeatures "${JOBFEATURES#file://}" allocated_cpu
    for path in "${MACHINEFEATURES#file://}" "${JOBFEATURES#file://}" "$outputs" /user_data; do look "$path"; done
    try "$outputs"
    try /tmp
    try /etc
    for path in /lmc/token /lmc/key; do
        put "secret.$path" "$(hex $path)"
        look $path
        if (printf x >>$path) 2>/dev/null; then put "changeable.$path" yes; else put "changeable.$path" no; fi
    done
    put user_data.bytes "$(wc -c 2>/dev/null </user_data | tr -d ' ')"
    if (printf x >>/user_data) 2>/dev/null; then put changeable./user_data yes; else put changeable./user_data no; fi
    for path in /lmc-memory /lmc-scratch; do
        look $path
        put "entries.$path" "$(ls -A $path 2>/dev/null | wc -l | tr -d ' ')"
        try $path
        if [ -d $path ]; then date >$path/left; fi
    done
}

outputs=${JOBOUTPUTS#file://}
portrait "$@" >"$outputs/portrait.part" && mv "$outputs/portrait.part" "$outputs/portrait"
exit 0
