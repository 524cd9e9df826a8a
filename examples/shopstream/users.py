"""The user service: profiles in MongoDB. Their shape may grow; the server sees to what every one of them needs."""

from __future__ import annotations

import datetime as dt
from typing import Any

from pymongo.database import Database
from pymongo.errors import DuplicateKeyError, WriteError

PROFILE = {
    "bsonType": "object",
    "required": ["userId", "email", "createdAt"],
    "properties": {
        "userId": {"bsonType": "string"},
        "email": {"bsonType": "string", "pattern": r"^.+@.+\..+$"},
        "createdAt": {"bsonType": "date"},
    },
}
"""All else is allowed without being declared."""
_DOCUMENT_VALIDATION_FAILURE = 121


class RefusedError(Exception):
    """A profile that cannot be as it was given; the text is for the user."""


class Users:
    """Profiles, and the order history that the fan-out of orders adds to them."""

    def __init__(self, database: Database[dict[str, Any]]) -> None:
        self._database = database
        self._users = database.users

    def create(self) -> None:
        """Make the collection: a document that is no profile is refused, and so is a verified address of another's."""
        self._database.create_collection("users", validator={"$jsonSchema": PROFILE}, validationAction="error")
        self._users.create_index(
            "email", unique=True, partialFilterExpression={"emailVerified": True}, name="unique_verified_email"
        )

    def register(self, user_id: str, email: str | None, **attributes: Any) -> None:
        """Take a new user, with whatever attributes a product team has thought of. Raises RefusedError."""
        profile = {"userId": user_id, "email": email, "createdAt": dt.datetime.now(dt.UTC), "emailVerified": False}
        known = {name: value for name, value in profile.items() if value is not None}
        try:
            self._users.insert_one({**attributes, "_id": user_id, **known})
        except DuplicateKeyError as error:
            raise RefusedError("there is such a user") from error
        except WriteError as error:
            if error.code != _DOCUMENT_VALIDATION_FAILURE:
                raise
            raise RefusedError("a profile needs an id, and an e-mail address") from error

    def verify(self, user_id: str) -> None:
        """The user has shown that the address is theirs. Raises RefusedError: It is verified for another, or there is
        no such user."""
        try:
            found = self._users.update_one({"_id": user_id}, {"$set": {"emailVerified": True}})
            if not found.matched_count:
                raise RefusedError("there is no such user")
        except DuplicateKeyError as error:
            raise RefusedError("this e-mail address belongs to another account") from error

    def histories(self) -> dict[str, list[str]]:
        """The orders of each user who has some."""
        found = self._users.find({"orderHistory": {"$exists": True}}, {"orderHistory": 1})
        return {each["_id"]: each["orderHistory"] for each in found}
