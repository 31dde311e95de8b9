"""URL schemes that cnxman adds to pyserial's, found by `serial.serial_for_url`."""
