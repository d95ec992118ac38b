"""Read /etc/auto.iscsi.conf: files, settings, values, patterns, caches."""
