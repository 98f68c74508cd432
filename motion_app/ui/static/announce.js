// What changes in it is read out to those who do not see it.
element.setAttribute("role", "status");
element.setAttribute("aria-live", "polite");
