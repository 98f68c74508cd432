"""The human study, without torch and without the app around it.

::

    items → plan → answers ⇄ site (raters, administrator)
                     ↓
                   unblinding → statistics → report → figures, exports
"""
