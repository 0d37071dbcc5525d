//! Training, compression, measurement and reports.
