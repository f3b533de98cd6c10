"""A small archive of real DICOM files, laid out and indexed like IDC's."""
