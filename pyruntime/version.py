"""The one place that knows the versions."""

VERSION = "0.1.0"
SPEC_VERSION = "1.3.0"  # of runtime-spec, as written into state and by `pyruntime spec`
