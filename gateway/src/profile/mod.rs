//! Profiles over HTTP.

mod routes;

pub use routes::{
    __path_delete_profile, __path_get_profile, __path_list_profiles, __path_put_profile,
    delete_profile, get_profile, list_profiles, put_profile,
};
