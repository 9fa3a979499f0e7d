//! Rotated-volume evaluation: protocols, metrics, equivariance errors and reports.
