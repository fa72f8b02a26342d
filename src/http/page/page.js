"use strict"; // page
