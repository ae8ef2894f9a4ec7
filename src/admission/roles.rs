//! Which paths need which role (contract section 10.4).

use super::paths::{MatchingPath, any_matches};
use crate::config::{Role, RolePaths};
use crate::refusal::{AuthMode, Denial, DenialReason, Refusal};

/// Whether `role` may see `path`: when the path is one of the listed ones, the role has to be one that lists it.
///
/// # Errors
/// [`Refusal::Denied`] for another role; [`Refusal::BadRequest`] when there are lists and the path is ambiguous.
pub fn permit(
    role_paths: &[RolePaths],
    role: Role,
    path: &MatchingPath<'_>,
) -> Result<(), Refusal> {
    if role_paths.is_empty() {
        return Ok(());
    }
    path.require_clear()?;
    let mut roles = role_paths
        .iter()
        .filter(|listed| any_matches(&listed.paths, path))
        .map(|listed| listed.role)
        .peekable();
    if roles.peek().is_none() || roles.any(|listed| listed == role) {
        Ok(())
    } else {
        let reason = DenialReason::InsufficientRole;
        Err(Refusal::Denied(Denial { mode: AuthMode::Kratos, reason }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::paths::Pattern;

    #[test]
    fn a_listed_path_needs_a_role_that_lists_it() {
        let paths = |texts: &[&str]| {
            texts.iter().map(|text| Pattern::parse(text).expect(text)).collect::<Vec<_>>()
        };
        let role_paths = [
            RolePaths { role: Role::Admin, paths: paths(&["/admin/*", "/both"]) },
            RolePaths { role: Role::Moderator, paths: paths(&["/both", "/mod?"]) },
        ];
        for (path, admitted) in [
            ("/admin", vec![Role::Admin]),
            ("/%61dmin/x", vec![Role::Admin]),
            ("/both", vec![Role::Admin, Role::Moderator]),
            ("/mods", vec![Role::Moderator]),
            ("/other", vec![Role::User, Role::Admin, Role::Moderator]),
            ("/administration", vec![Role::User, Role::Admin, Role::Moderator]),
        ] {
            let path = MatchingPath::of(path);
            for role in Role::ALL {
                let verdict = permit(&role_paths, role, &path);
                assert_eq!(verdict.is_ok(), admitted.contains(&role), "{path:?} {role:?}");
                assert!(verdict.is_ok() || verdict.is_err_and(|no| no.answer().status == 403));
            }
        }
        let ambiguous = MatchingPath::of("/x//admin");
        for role in Role::ALL {
            let verdict = permit(&role_paths, role, &ambiguous);
            assert_eq!(verdict.map_err(|refusal| refusal.answer().status), Err(400));
            assert_eq!(permit(&[], role, &ambiguous), Ok(()));
        }
    }
}
