//! Steerable kernel bases: radial and angular functions, sampling, expansion to dense filters, initialisation.
