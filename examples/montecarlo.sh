#!/bin/sh
# Estimate pi by throwing SAMPLES points a processor at a square; each processor is a process of its own.
set -eu

processors=$(lm-payload feature allocated_cpu 1)
echo "$(hostname): job $(lm-payload feature job_id), $processors processor(s), $(lm-payload remaining) s left"

while :; do lm-payload heartbeat; sleep 10; done &
heart=$!

throw() {
    awk -v seed="$1" -v samples="$SAMPLES" 'BEGIN {
        srand(seed)
        for (i = 0; i < samples; i++) { x = rand(); y = rand(); if (x * x + y * y < 1) inside++ }
        print inside, samples
    }'
}

workers=""
number=0
while [ "$number" -lt "$processors" ]; do
    number=$((number + 1))
    throw "$number" >"/tmp/part.$number" &
    workers="$workers $!"
done
for worker in $workers; do wait "$worker"; done
kill "$heart"

cat /tmp/part.* | awk '{ inside += $1; all += $2 }
    function root(x, r, i) { r = 1; for (i = 0; i < 40; i++) r = (r + x / r) / 2; return r }
    END { p = inside / all; printf "samples %d\npi %.6f\nerror %.6f\n", all, 4 * p, 4 * root(p * (1 - p) / all) }' \
    >/tmp/result.txt
lm-payload output /tmp/result.txt
sed 's/^/result: /' /tmp/result.txt
lm-payload done 200 "Success: $(sed -n 2p /tmp/result.txt)"
