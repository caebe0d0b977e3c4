#!/bin/sh
# Runs in the container: the same answers as plan.json's program gives.
echo "hello from $MUSTER_NAME slot $MUSTER_SLOT" > /www/index.html
echo ok > /www/health
echo "listening on port ${MUSTER_LISTEN_8080:-8080}"
httpd -f -p "${MUSTER_LISTEN_8080:-8080}" -h /www &
trap 'exit 0' TERM INT # the first process of a container gets no signal that it doesn't ask for
wait
