#!/bin/sh
# What an unprivileged Apptainer does first, with unshare: namespaces of our own, and a /proc that shows only them.
set -eu
echo "outside: $(ls -d /proc/[0-9]* | wc -l) processes, user map$(cat /proc/self/uid_map)"
unshare -Urmpf /bin/sh -c '
    mount -t proc proc /proc
    echo "inside: $(ls -d /proc/[0-9]* | wc -l) processes, user map$(cat /proc/self/uid_map)"
'
lm-payload done 200 "nested containers work"
