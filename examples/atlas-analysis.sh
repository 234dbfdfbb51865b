#!/bin/sh
# Sets up ATLAS's software from CernVM-FS and says what it found; an analysis would go on from here.
set -u
( while date >"$JOBOUTPUTS/heartbeat"; do sleep 60; done ) &
export ATLAS_LOCAL_ROOT_BASE=/cvmfs/atlas.cern.ch/repo/ATLASLocalRootBase
if [ ! -r "$ATLAS_LOCAL_ROOT_BASE/user/atlasLocalSetup.sh" ]; then
    echo "300 atlas.cern.ch is not there" >"$JOBOUTPUTS/shutdown_message"
    exit 1
fi
. "$ATLAS_LOCAL_ROOT_BASE/user/atlasLocalSetup.sh" --quiet
ls /cvmfs/sft.cern.ch/lcg/views | tail -5 >"$JOBOUTPUTS/views.txt"
echo "200 Success" >"$JOBOUTPUTS/shutdown_message"
