#!/bin/sh
# Run by cloud-init: say how it ended where the metadata server wants it, and switch off.
joboutputs='##user_data_joboutputs_url##'
echo "200 Success from $(uname -n)" | curl --silent --show-error --upload-file - "$joboutputs/shutdown_message"
poweroff
