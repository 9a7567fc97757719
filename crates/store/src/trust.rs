//! Telling a server that is not trusted from one that is away.

use std::error::Error;

/// What is wrong with a server's certificate, if that is why there is no connection.
pub(crate) fn distrust(error: &(dyn Error + 'static)) -> Option<String> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        // What an I/O error carries is not among its sources.
        let carried = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        let carried = carried.map(|error| -> &(dyn Error + 'static) { error });
        for error in [Some(error), carried].into_iter().flatten() {
            if let Some(rustls::Error::InvalidCertificate(why)) = error.downcast_ref() {
                return Some(why.to_string());
            }
        }
        cause = carried.or_else(|| error.source());
    }
    None
}

#[cfg(test)]
mod tests {
    use std::io;

    use rustls::CertificateError;

    use super::distrust;

    #[test]
    fn only_a_bad_certificate_is_distrusted() {
        let bad = rustls::Error::InvalidCertificate(CertificateError::Expired);
        let carried = io::Error::new(io::ErrorKind::InvalidData, io::Error::other(bad));
        assert!(distrust(&carried).unwrap().contains("Expired"));
        for other in
            [io::Error::other(rustls::Error::EncryptError), io::ErrorKind::ConnectionReset.into()]
        {
            assert_eq!(distrust(&other), None);
        }
    }
}
