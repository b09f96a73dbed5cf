# SPDX-License-Identifier: Apache-2.0
"""The CHAP credentials in a question. Shell ring.

Not here: CHAP itself (`rdmactl.iscsi.chap`), where secrets come from.
"""

from __future__ import annotations

from rdmactl.iscsi.chap import ChapCredentials, Secret
from rdmactl.rdmacm.report import Question

__all__ = ["credentials_of"]


def credentials_of(question: Question) -> ChapCredentials | None:
    """None without a user name. LocalError for credentials that cannot be used."""
    if not question.username:
        return None
    return ChapCredentials(
        username=question.username,
        secret=Secret(question.password),
        username_in=question.username_in or None,
        secret_in=Secret(question.password_in) if question.password_in else None,
        algorithms=question.algorithms,
    )
