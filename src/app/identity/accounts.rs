//! Business users and mobile users.

use super::IdentityService;
use crate::{
    app::{By, Error, audit_log::Listing, clock::new_id},
    domain::{
        MobileUserId, Permission, Permissions, Phone, UserId,
        audit::AuditAction,
        mail_address::is_mail_address,
        text::{self, normal_name},
    },
    store::{
        self,
        accounts::{self, BusinessUser, MobileStatus, MobileUser},
        audit,
    },
};

/// What to change of a business user; `None` leaves a thing as it is.
#[derive(Clone, Debug, Default)]
pub struct Change {
    pub permissions: Option<Permissions>,
    pub phone: Option<Phone>,
    /// Let it in, or shut it out.
    pub enabled: Option<bool>,
    /// Even if nobody is left then who may administer over the API.
    pub even_last_admin: bool,
    /// Set a content policy, as JSON, or remove it.
    pub content_policy: Option<Option<String>>,
}

impl IdentityService {
    /// Adds a business user.
    ///
    /// # Errors
    /// [`Error::Invalid`], [`Error::Conflict`] when the name is taken.
    pub async fn add_user(
        &self,
        by: &By,
        name: &str,
        permissions: Permissions,
        phone: Option<Phone>,
    ) -> Result<BusinessUser, Error> {
        let name = text::new_name(name)
            .map_err(|why| Error::field("name", "invalid_name", why.to_string()))?;
        let user = BusinessUser {
            id: UserId(new_id()),
            name: name.clone(),
            phone,
            permissions,
            created_at: self.core.clock().now(),
            disabled_at: None,
            content_policy: None,
            content_policy_id: None,
        };
        let entry = self
            .core
            .entry(by, AuditAction::UserAdd)
            .of(user.id)
            .about(&user.phone)
            .with("name", name.as_str())
            .with("permissions", permissions.to_string());
        let mut client = self.core.store().client().await?;
        let transaction = audit::begin(&mut client).await?;
        match accounts::add_user(&transaction, &user).await {
            Ok(()) => audit::commit(transaction, &[entry]).await?,
            Err(store::Error::Conflict { .. }) => {
                return Err(Error::Conflict(format!("there is a user named {name} already")));
            }
            Err(other) => return Err(other.into()),
        }
        Ok(user)
    }

    /// A business user by id or name, for what is to be done with it. An id is looked for first: a user of
    /// an earlier version may be named like the id of another.
    ///
    /// # Errors
    /// [`Error::NotFound`]; failures of the database.
    pub async fn find_user(&self, name_or_id: &str) -> Result<BusinessUser, Error> {
        let client = self.core.store().client().await?;
        if let Ok(id) = name_or_id.trim().parse()
            && let Some(user) = accounts::user_by_id(&client, id).await?
        {
            return Ok(user);
        }
        // What no name can hold is no statement's to look for.
        if name_or_id.contains('\0') {
            return Err(Error::NotFound("user"));
        }
        // As it was written first: beside one in its normal form there may be another.
        let names = [name_or_id.trim(), &*normal_name(name_or_id)];
        accounts::user_by_name(&client, names).await?.ok_or(Error::NotFound("user"))
    }

    /// A business user by name or id, to be shown.
    ///
    /// # Errors
    /// [`Error::NotFound`]; failures of the database.
    pub async fn show_user(&self, by: &By, name_or_id: &str) -> Result<BusinessUser, Error> {
        let found = self.find_user(name_or_id).await;
        let mut entry = self.core.entry(by, AuditAction::UserShow);
        if let Ok(user) = &found {
            entry = entry.of(user.id).about(&user.phone);
        }
        self.core.record_end(entry, found).await
    }

    /// Business users by name, after a given name.
    ///
    /// # Errors
    /// Failures of the database.
    pub async fn list_users(
        &self,
        by: &By,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Listing<BusinessUser>, Error> {
        let client = self.core.store().of(by.party().as_ref()).client().await?;
        let found = accounts::list_users(&client, after, limit + 1).await?;
        drop(client);
        let found = Listing::of(found, limit);
        let entry = self
            .core
            .entry(by, AuditAction::UserList)
            .about(found.items.iter().filter_map(|user| user.phone.as_ref()))
            .with("shown", found.items.len());
        self.core.record(entry).await?;
        Ok(found)
    }

    /// Changes a business user. The last who may administer is not shut out by mistake.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Conflict`] for the last administrator; failures of the database.
    pub async fn change_user(
        &self,
        by: &By,
        id: UserId,
        change: &Change,
    ) -> Result<BusinessUser, Error> {
        let policy = change.content_policy.as_ref().map(|text| {
            let compiled = text.as_deref().map(store::content_policy::parse).transpose();
            compiled.map_err(|why| Error::field("contentPolicy", "invalid_policy", why.to_string()))
        });
        let policy = policy.transpose()?;
        let shuts_out = change.enabled == Some(false);
        let mut entry = self
            .core
            .entry(by, if shuts_out { AuditAction::UserDisable } else { AuditAction::UserSet })
            .of(id)
            .with_some("permissions", change.permissions.map(|p| p.to_string()))
            .with_some("enabled", change.enabled);
        if let Some(policy) = &policy {
            entry = match policy {
                None => entry.with("contentPolicy", "none"),
                Some(policy) => entry
                    .with("contentPolicy", "set")
                    .with("rules", policy.rules())
                    .with("hosts", policy.hosts()),
            };
        }
        let mut client = self.core.store().client().await?;
        let transaction = audit::begin(&mut client).await?;
        let Some(before) = accounts::lock_user(&transaction, id).await? else {
            drop(transaction);
            drop(client);
            return self.core.record_end(entry, Err(Error::NotFound("user"))).await;
        };
        let loses = shuts_out || change.permissions.is_some_and(|p| !p.has(Permission::Admin));
        let administers = before.permissions.has(Permission::Admin) && before.disabled_at.is_none();
        let now = self.core.clock().now();
        if loses && administers && !accounts::has_other_administrator(&transaction, id, now).await?
        {
            entry = entry.with("lastAdmin", true);
            if !change.even_last_admin {
                drop(transaction);
                drop(client);
                let refused = format!(
                    "{} is the last user who can administer over the API; give another one Admin, and a \
                     token, first",
                    before.name
                );
                return self.core.record_end(entry, Err(Error::Conflict(refused))).await;
            }
        }
        let stored = accounts::UserChange {
            permissions: change.permissions,
            phone: change.phone.clone(),
            disabled_at: change.enabled.map(|enabled| (!enabled).then(|| self.core.clock().now())),
            content_policy: change
                .content_policy
                .clone()
                .map(|text| text.map(|text| (new_id(), text))),
        };
        let changed = accounts::change_user(&transaction, id, &stored).await?;
        let user = changed.ok_or(Error::NotFound("user"))?;
        if change.phone.is_some() {
            entry = entry.with("phoneChanged", before.phone != user.phone);
        }
        let entry = entry.about(before.phone.iter().chain(&user.phone));
        audit::commit(transaction, &[entry]).await?;
        self.note_policy(user.id, user.content_policy_id);
        Ok(user)
    }

    /// Adds mobile users; those that are there already can only become verified by this.
    ///
    /// # Errors
    /// Failures of the database.
    pub async fn put_mobiles(
        &self,
        by: &By,
        phones: &[Phone],
        status: MobileStatus,
    ) -> Result<Vec<MobileUser>, Error> {
        let created_at = self.core.clock().now();
        let new: Vec<MobileUser> = phones
            .iter()
            .map(|phone| MobileUser {
                id: MobileUserId(new_id()),
                phone: phone.clone(),
                status,
                created_at,
                blocked_at: None,
                email: None,
            })
            .collect();
        let mut client = self.core.store().client().await?;
        let transaction = audit::begin(&mut client).await?;
        let users = accounts::put_mobiles(&transaction, &new).await?;
        let mut entry = self
            .core
            .entry(by, AuditAction::MobileAdd)
            .about(phones)
            .with("status", status.name())
            .with("added", users.len());
        if let [user] = users.as_slice() {
            entry = entry.of(user.id);
        }
        audit::commit(transaction, &[entry]).await?;
        Ok(users)
    }

    /// Sets or removes the address to which one-time codes for a number may be mailed.
    ///
    /// # Errors
    /// [`Error::Invalid`] for no mail address; [`Error::NotFound`]; failures of the database.
    pub async fn set_mobile_email(
        &self,
        by: &By,
        phone: &Phone,
        email: Option<&str>,
    ) -> Result<MobileUser, Error> {
        if email.is_some_and(|email| !is_mail_address(email)) {
            let text = "email must be a mail address such as user@example.org";
            return Err(Error::field("email", "invalid_email", text));
        }
        let entry = self
            .core
            .entry(by, AuditAction::MobileSet)
            .about([phone])
            .with("email", if email.is_some() { "set" } else { "removed" });
        let mut client = self.core.store().client().await?;
        let transaction = audit::begin(&mut client).await?;
        let Some(user) = accounts::set_mobile_email(&transaction, phone, email).await? else {
            drop(transaction);
            drop(client);
            return self.core.record_end(entry, Err(Error::NotFound("mobile user"))).await;
        };
        audit::commit(transaction, &[entry.of(user.id)]).await?;
        Ok(user)
    }

    /// Blocks a phone, or lets it in again: its tokens open nothing from within a second on, and its
    /// connections are closed. Messages to it stay pending.
    ///
    /// # Errors
    /// [`Error::NotFound`]; failures of the database.
    pub async fn block_mobile(
        &self,
        by: &By,
        phone: &Phone,
        blocked: bool,
    ) -> Result<MobileUser, Error> {
        let action = if blocked { AuditAction::MobileBlock } else { AuditAction::MobileUnblock };
        let entry = self.core.entry(by, action).about([phone]);
        let at = blocked.then(|| self.core.clock().now());
        let mut client = self.core.store().client().await?;
        let transaction = audit::begin(&mut client).await?;
        let Some(user) = accounts::block_mobile(&transaction, phone, at).await? else {
            drop(transaction);
            drop(client);
            return self.core.record_end(entry, Err(Error::NotFound("mobile user"))).await;
        };
        audit::commit(transaction, &[entry.of(user.id)]).await?;
        Ok(user)
    }

    /// A mobile user by phone number, for what is to be done with it.
    ///
    /// # Errors
    /// [`Error::NotFound`]; failures of the database.
    pub async fn find_mobile(&self, phone: &Phone) -> Result<MobileUser, Error> {
        let client = self.core.store().client().await?;
        accounts::find_mobile(&client, phone).await?.ok_or(Error::NotFound("mobile user"))
    }

    /// A mobile user by phone number, to be shown.
    ///
    /// # Errors
    /// [`Error::NotFound`]; failures of the database.
    pub async fn show_mobile(&self, by: &By, phone: &Phone) -> Result<MobileUser, Error> {
        let found = self.find_mobile(phone).await;
        let mut entry = self.core.entry(by, AuditAction::MobileShow).about([phone]);
        if let Ok(user) = &found {
            entry = entry.of(user.id);
        }
        self.core.record_end(entry, found).await
    }

    /// Mobile users by phone number, after a given one.
    ///
    /// # Errors
    /// Failures of the database.
    pub async fn list_mobiles(
        &self,
        by: &By,
        after: Option<&Phone>,
        limit: usize,
    ) -> Result<Listing<MobileUser>, Error> {
        let client = self.core.store().of(by.party().as_ref()).client().await?;
        let found = accounts::list_mobiles(&client, after, limit + 1).await?;
        drop(client);
        let found = Listing::of(found, limit);
        let entry = self
            .core
            .entry(by, AuditAction::MobileList)
            .about(found.items.iter().map(|user| &user.phone))
            .with("shown", found.items.len());
        self.core.record(entry).await?;
        Ok(found)
    }
}
