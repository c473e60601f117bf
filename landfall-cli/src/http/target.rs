//! The two forms of a target that a server of its own is asked by (RFC 9112, 3.2.1 and 3.2.2).

/// The path and the query of a target in origin form (`/path?query`) or absolute form
/// (`http://host/path?query`), which a server has to accept; of others nothing.
pub fn origin_form(target: &str) -> Option<&str> {
    if target.starts_with('/') {
        return Some(target);
    }
    let (scheme, rest) = target.split_once("://")?;
    if !["http", "https"]
        .iter()
        .any(|known| scheme.eq_ignore_ascii_case(known))
    {
        return None;
    }
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    if authority.is_empty() || authority.contains('@') {
        return None;
    }
    match path.is_empty() {
        true => Some("/"),
        false => Some(path).filter(|path| path.starts_with('/')),
    }
}
