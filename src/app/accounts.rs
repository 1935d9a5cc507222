//! Business users and mobile users.

use uuid::Uuid;

use super::{App, Error};
use crate::{
    domain::{MobileUserId, Permissions, Phone, UserId},
    store::{
        self,
        accounts::{self, BusinessUser, MobileStatus, MobileUser, UserChange},
    },
};

/// The longest name of a business user, in characters.
const NAME_LIMIT: usize = 200;

impl App {
    /// Adds a business user.
    ///
    /// # Errors
    /// [`Error::Invalid`], [`Error::Conflict`] when the name is taken.
    pub async fn add_user(
        &self,
        name: &str,
        permissions: Permissions,
        phone: Option<Phone>,
    ) -> Result<BusinessUser, Error> {
        let name = name.trim();
        if name.is_empty() || name.chars().count() > NAME_LIMIT || name.contains('\0') {
            let message = format!("name must have 1 to {NAME_LIMIT} characters");
            return Err(Error::field("name", "invalid_name", message));
        }
        let user = BusinessUser {
            id: UserId(Uuid::now_v7()),
            name: name.to_owned(),
            phone,
            permissions,
            created_at: self.clock().now(),
            disabled_at: None,
        };
        match accounts::add_user(&self.store().client().await?, &user).await {
            Ok(()) => Ok(user),
            Err(store::Error::Conflict { .. }) => {
                Err(Error::Conflict(format!("there is a user named {name} already")))
            }
            Err(other) => Err(other.into()),
        }
    }

    /// A business user by name or id.
    ///
    /// # Errors
    /// [`Error::NotFound`]; failures of the database.
    pub async fn find_user(&self, name_or_id: &str) -> Result<BusinessUser, Error> {
        let client = self.store().client().await?;
        accounts::find_user(&client, name_or_id).await?.ok_or(Error::NotFound("user"))
    }

    /// All business users.
    ///
    /// # Errors
    /// Failures of the database.
    pub async fn list_users(&self) -> Result<Vec<BusinessUser>, Error> {
        Ok(accounts::list_users(&self.store().client().await?, 10_000).await?)
    }

    /// Changes a business user.
    ///
    /// # Errors
    /// [`Error::NotFound`]; failures of the database.
    pub async fn change_user(
        &self,
        id: UserId,
        change: &UserChange,
    ) -> Result<BusinessUser, Error> {
        let client = self.store().client().await?;
        accounts::change_user(&client, id, change).await?.ok_or(Error::NotFound("user"))
    }

    /// Adds mobile users; those that are there already can only become verified by this.
    ///
    /// # Errors
    /// Failures of the database.
    pub async fn put_mobiles(
        &self,
        phones: &[Phone],
        status: MobileStatus,
    ) -> Result<Vec<MobileUser>, Error> {
        let created_at = self.clock().now();
        let new: Vec<MobileUser> = phones
            .iter()
            .map(|phone| MobileUser {
                id: MobileUserId(Uuid::now_v7()),
                phone: phone.clone(),
                status,
                created_at,
            })
            .collect();
        Ok(accounts::put_mobiles(&self.store().client().await?, &new).await?)
    }

    /// A mobile user by phone number.
    ///
    /// # Errors
    /// [`Error::NotFound`]; failures of the database.
    pub async fn find_mobile(&self, phone: &Phone) -> Result<MobileUser, Error> {
        let client = self.store().client().await?;
        accounts::find_mobile(&client, phone).await?.ok_or(Error::NotFound("mobile user"))
    }

    /// Mobile users by phone number, after a given one.
    ///
    /// # Errors
    /// Failures of the database.
    pub async fn list_mobiles(
        &self,
        after: Option<&Phone>,
        limit: usize,
    ) -> Result<Vec<MobileUser>, Error> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        Ok(accounts::list_mobiles(&self.store().client().await?, after, limit).await?)
    }
}
