//! Libraries that are looked for when the program runs. candle has cudarc link the libraries it uses, and a program
//! linked with one that is not there does not start.

/// A struct `$library` with the functions of a library; `$what` says whose signatures they are.
macro_rules! dynamic_library {
    ($library:ident, $what:literal; $($name:ident: $symbol:literal, $type:ty;)*) => {
        #[doc = concat!("The functions of ", $what, " that are used.")]
        #[derive(Debug)]
        pub(crate) struct $library {
            $($name: $type,)*
            /// Keeps the functions in memory.
            _library: libloading::Library,
        }

        impl $library {
            /// The first of the libraries that has all functions.
            pub(crate) fn load<P: AsRef<std::ffi::OsStr>>(names: &[P]) -> Option<Self> {
                names.iter().find_map(|name| {
                    // SAFETY: the initialisers of NVIDIA's libraries ask nothing of the program, and the
                    // functions have these signatures: a test compiles a library against the headers.
                    #[allow(unsafe_code)]
                    unsafe {
                        let library = libloading::Library::new(name.as_ref()).ok()?;
                        Some(Self {
                            $($name: *library.get::<$type>($symbol).ok()?,)*
                            _library: library,
                        })
                    }
                })
            }
        }
    };
}
pub(crate) use dynamic_library;
