"""The human study, without torch and without the app around it.

::

    items → plan → store ⇄ pages (raters, administrator)
                     ↓
                   ledger → statistics → report → figures, exports
"""
