#!/bin/sh
# What cargo calls in place of rustc for this package when coverage is measured.
exec "$@" -C instrument-coverage
