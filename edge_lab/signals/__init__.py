"""From files to arrays: pictures and recordings, exactly as every device does it."""
