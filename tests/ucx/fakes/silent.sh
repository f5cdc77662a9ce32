#!/bin/sh
# A FAKE child of a transfer: it says nothing and does not end.
exec sleep 60
